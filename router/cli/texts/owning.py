"""What `glowl owners` and `glowl keys` say.

In: nothing. Out: `Text`s by key.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

TEXTS: Final[dict[str, Text]] = {
    "owners.redis.none": Text(
        "no `glowl up` runs with the data folder {data_dir}; start it, name its folder with --data-dir, or name the "
        "redis of your service with REDIS_URL",
        "没有使用数据目录 {data_dir} 的 `glowl up` 在运行；请先启动它，或用 --data-dir 指定其目录，或用 REDIS_URL "
        "指定服务所用的 redis",
    ),
    "owners.created": Text(
        "created {name}; make its first key: {command}",
        "已创建 {name}；接下来创建第一个密钥：{command}",
    ),
    "owners.adopted": Text(
        "keys of {name} may do {has} from now on, and no longer {lost}; to give that back: {command}",
        "{name} 的密钥今后可用于 {has}，不再包括 {lost}；如需恢复：{command}",
    ),
    "owners.closed": Text(
        "this is the first owner: from now on, every request needs a key",
        "这是第一个所有者：从现在起，每个请求都需要密钥",
    ),
    "owners.local": Text(
        "what was stored without keys belongs to 'local'; an owner made with --adopt local can read it: {command}",
        "此前无密钥时存储的内容属于 'local'；用 --adopt local 创建的所有者可以读取：{command}",
    ),
    "owners.none": Text("there are no owners; make one: {command}", "还没有所有者；请创建：{command}"),
    "owners.configured": Text("(GLOWL_API_KEYS, not adopted)", "（GLOWL_API_KEYS，尚未接管）"),
    "owners.nothing": Text(
        "nothing to change; give --name, --scopes, --limits or --retention",
        "没有要修改的内容；请给出 --name、--scopes、--limits 或 --retention",
    ),
    "owners.updated": Text("updated {name}", "已更新 {name}"),
    "owners.has": Text(
        "{name} still has {stored}; nothing was deleted. Delete all of it with: {command}",
        "{name} 仍有 {stored}；未删除任何内容。要全部删除，请运行：{command}",
    ),
    "owners.deleted": Text("deleted {name} and its keys", "已删除 {name} 及其密钥"),
    "owners.purged": Text("deleted {name}, its keys and {stored}", "已删除 {name}、其密钥以及 {stored}"),
    "owners.purged.again": Text(
        "an answer that is being written at this moment may still be stored; once it has ended, this deletes it: "
        "{command}",
        "此刻正在生成的回答仍可能被存储；待其结束后可再次运行以删除：{command}",
    ),
    "owners.purged.audit": Text(
        "the audit log in {folder} is not changed, since a line taken out of it would break its chain: what it says of "
        "{id} is deleted with its day, after {days} days (GLOWL_AUDIT_DAYS)",
        "{folder} 中的审计日志不会改动（删去一行会破坏其哈希链）：其中关于 {id} 的记录在 {days} 天后"
        "（GLOWL_AUDIT_DAYS）随当天的文件一并删除",
    ),
    "owners.still_configured": Text(
        "its key in GLOWL_API_KEYS still works for a process that has it and no record of it: remove it there, and "
        "restart the api",
        "GLOWL_API_KEYS 中的对应密钥如无记录则仍然有效：请从中移除并重启 api",
    ),
    "owners.opened": Text(
        "this was the last owner: on loopback, requests need no key from now on",
        "这是最后一个所有者：从现在起，本机回环地址上的请求不再需要密钥",
    ),
    "owners.column.id": Text("ID", "ID"),
    "owners.column.name": Text("Name", "名称"),
    "owners.column.created": Text("Created", "创建时间"),
    "owners.column.keys": Text("Keys", "密钥"),
    "owners.column.scopes": Text("Scopes", "权限范围"),
    "owners.column.limits": Text("Limits", "限额"),
    "owners.column.retention": Text("Kept", "保留时间"),
    "owners.column.capture": Text("Captured", "为数据集保存"),
    "owners.column.redact": Text("Redacted", "脱敏"),
    "owners.column.stored": Text("Stored", "已存储"),
    "keys.created": Text(
        "a new key of {owner}; it is shown this once, keep it:", "{owner} 的新密钥；仅显示这一次，请妥善保存："
    ),
    "keys.rotated": Text(
        "the new key of {owner}; it is shown this once, keep it:", "{owner} 的新密钥；仅显示这一次，请妥善保存："
    ),
    "keys.old": Text("the old key {id} is good until {at}", "旧密钥 {id} 在 {at} 之前仍然有效"),
    "keys.revoked": Text("{id} is revoked; the next request with it is refused", "{id} 已吊销；之后的请求将被拒绝"),
    "keys.none": Text("there are no keys; make one: {command}", "还没有密钥；请创建：{command}"),
    "keys.never": Text("never", "从未"),
    "keys.no_end": Text("never", "永不"),
    "keys.status.live": Text("live", "有效"),
    "keys.status.expired": Text("expired", "已过期"),
    "keys.status.revoked": Text("revoked", "已吊销"),
    "keys.column.id": Text("Key", "密钥"),
    "keys.column.owner": Text("Owner", "所有者"),
    "keys.column.status": Text("Status", "状态"),
    "keys.column.created": Text("Created", "创建时间"),
    "keys.column.used": Text("Last used", "上次使用"),
    "keys.column.expires": Text("Expires", "过期时间"),
    "keys.column.scopes": Text("Scopes", "权限范围"),
    "keys.column.note": Text("Note", "备注"),
}
