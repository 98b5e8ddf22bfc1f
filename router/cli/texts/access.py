"""What `glowl tokens` and `glowl audit` say.

In: nothing. Out: `Text`s by key.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

TEXTS: Final[dict[str, Text]] = {
    # tokens
    "tokens.no_secret": Text(
        "no secret to sign with: set GLOWL_JWT_SECRET, as the service has it (`openssl rand -hex 32` makes one)",
        "没有可用于签名的密钥：请设置与服务相同的 GLOWL_JWT_SECRET（可用 `openssl rand -hex 32` 生成）",
    ),
    "tokens.off": Text(
        "no token is accepted: set GLOWL_JWT_SECRET or GLOWL_JWT_JWKS, as the service has them",
        "未启用令牌：请设置与服务相同的 GLOWL_JWT_SECRET 或 GLOWL_JWT_JWKS",
    ),
    "tokens.good": Text(
        "accepted: owner {owner}, scopes {scopes}, until {until}",
        "有效：所有者 {owner}，权限 {scopes}，有效期至 {until}",
    ),
    # audit
    "audit.chain": Text(
        "{name}  {first} to {last}  {lines} lines, last hash {hash}",
        "{name}  {first} 至 {last}  共 {lines} 行，末行哈希 {hash}",
    ),
    "audit.nothing": Text(
        "no line is about that; an owner goes by the id that `glowl owners show NAME` prints",
        "没有相符的行；所有者须写 `glowl owners show NAME` 显示的 id",
    ),
    "audit.wanted": Text("no line has the hash {hash}", "没有任何一行的哈希为 {hash}"),
    "audit.none": Text(
        "there is no audit log in {folder}; GLOWL_AUDIT=on begins one, --folder names another place",
        "{folder} 中没有审计日志；GLOWL_AUDIT=on 可启用，--folder 可指定其他位置",
    ),
    "audit.good": Text("the log is as it was written", "日志与写入时一致"),
    "audit.bad": Text("the log was changed", "日志已被改动"),
}
