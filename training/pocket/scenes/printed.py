"""Pictures with printed text: price posters, bar charts, and the receipts that training never sees.

In: a wish for a picture. Out: a scene with every line in its place; questions about what it says.

A poster's two prices differ by their labels alone: which one is larger, higher up, first, in bigger print or in which
ink says nothing. Only an old price is ever struck through, and mostly it is not.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from training.pocket.scenes.asking import Asker, Builder, Scenes, Setup, Wordings, one, wording
from training.pocket.scenes.drawing import text_width_px
from training.pocket.scenes.layout import Size, paper
from training.pocket.scenes.nouns import RGB, Bar, Lang, Question, Scene, TextLine
from training.pocket.scenes.words import COLOUR_NAMES, say

_PRODUCTS: dict[Lang, tuple[str, ...]] = {
    "zh": ("苹果", "牛奶", "咖啡", "茶叶", "面包", "大米", "台灯", "水杯", "雨伞", "手表", "耳机", "毛巾"),
    "en": ("Apples", "Milk", "Coffee", "Tea", "Bread", "Rice", "Lamp", "Cup", "Umbrella", "Watch", "Shoes", "Towel"),
}
# (what it used to cost, what it costs)
_LABELS: dict[Lang, tuple[tuple[str, str], ...]] = {
    "zh": (("原价", "现价"), ("原价", "现价"), ("原价", "特价"), ("原价", "会员价"), ("平时", "今日")),
    "en": (("Was", "Now"), ("Was", "Now"), ("Old", "New"), ("Before", "Today"), ("Before", "Now")),
}
_CURRENCY: dict[Lang, tuple[str, ...]] = {"zh": ("¥", "¥", ""), "en": ("$", "$", "¥")}
_SHARE_OF_DECIMALS, _SHARE_OF_DOLLARS = 0.35, 0.15
_INKS: tuple[RGB, ...] = ((24, 24, 28), (24, 24, 28), (200, 24, 30), (24, 60, 170), (20, 110, 50), (110, 30, 130))
# A Chinese character below this height cannot be read.
_SMALLEST_PX = 12
_SMALLEST_STRUCK_PX = 17
# The models see every picture at about 96 x 96 pixels; in print below this height, seen so, a digit has no pixels left.
_SEEN_SIDE_PX = 96
_SMALLEST_PRICE_SEEN_PX = 15

_WORDS: Wordings = {
    "price_current": {
        "zh": (
            "现价是多少？",
            "现在卖多少钱？",
            "现在的价格是多少？",
            "今天多少钱？",
            "告诉我现价。",
            "现在的价钱是多少？",
            "请问现在多少钱？",
        ),
        "en": (
            "What is the current price?",
            "How much does it cost now?",
            "What is the price now?",
            "Tell me the current price.",
            "What does it cost now?",
            "How much is it now?",
            "What is the price today?",
        ),
    },
    "price_original": {
        "zh": (
            "原价是多少？",
            "原来卖多少钱？",
            "原来的价格是多少？",
            "以前多少钱？",
            "告诉我原价。",
            "原来的价钱是多少？",
            "请问原来多少钱？",
        ),
        "en": (
            "What was the original price?",
            "How much did it cost before?",
            "What was the old price?",
            "Tell me the original price.",
            "What did it cost before?",
            "How much was it before?",
            "What was the price before?",
        ),
    },
    "price_single": {
        "zh": (
            "价格是多少？",
            "多少钱？",
            "这个卖多少钱？",
            "告诉我价格。",
            "请问多少钱？",
        ),
        "en": (
            "What is the price?",
            "How much is it?",
            "How much does it cost?",
            "Tell me the price.",
            "What does it cost?",
            "What price do you see?",
        ),
    },
    "chart_tallest label": {
        "zh": (
            "哪根柱子最高？",
            "最高的柱子是哪一个？",
            "图表中哪一项最高？",
            "告诉我哪根柱子最高。",
            "你看到哪根柱子最高？",
        ),
        "en": (
            "Which bar is the tallest?",
            "Which bar is the highest?",
            "What is the label of the tallest bar?",
            "Tell me which bar is the tallest.",
            "What is the tallest bar?",
            "Which bar do you see as the tallest?",
        ),
    },
    "chart_tallest colour": {
        "zh": (
            "最高的柱子是什么颜色？",
            "最高的柱子的颜色是什么？",
            "哪种颜色的柱子最高？",
            "告诉我最高的柱子的颜色。",
            "你看到最高的柱子是什么颜色？",
        ),
        "en": (
            "What colour is the tallest bar?",
            "What is the colour of the tallest bar?",
            "Which colour is the highest bar?",
            "Tell me the colour of the tallest bar.",
            "What colour does the tallest bar have?",
        ),
    },
    "chart_value": {
        "zh": (
            "{b}的数值是多少？",
            "柱子{b}是多少？",
            "{b}的值是多少？",
            "告诉我{b}的数值。",
            "柱子{b}的值是多少？",
        ),
        "en": (
            "What is the value of {b}?",
            "How high is bar {b}?",
            "What value does {b} have?",
            "Tell me the value of {b}.",
            "What is the value of bar {b}?",
            "How much is {b}?",
        ),
    },
    "receipt_total": {
        "zh": (
            "合计多少钱？",
            "小票上的合计是多少？",
            "总共多少钱？",
        ),
        "en": (
            "What is the total?",
            "How much is the total on the receipt?",
            "What does it cost in total?",
        ),
    },
    "receipt_paid": {
        "zh": (
            "实付多少钱？",
            "实际付了多少？",
            "小票上的实付金额是多少？",
        ),
        "en": (
            "How much was paid?",
            "What amount was paid?",
            "How much money was handed over?",
        ),
    },
    "receipt_shop": {
        "zh": (
            "这是哪家店的小票？",
            "店名是什么？",
            "在哪家店买的？",
        ),
        "en": (
            "Which shop is the receipt from?",
            "What is the name of the shop?",
            "Where was it bought?",
        ),
    },
}


def _price(rng: random.Random) -> str:
    """A price of one to four digits, mostly of two or three; some have one or two decimals, and less before them."""
    aside = _aside(rng)
    digits = rng.choices((1, 2, 3, 4), (2, 4, 4, 1))[0]
    price = str(rng.randint(10 ** (digits - 1), 10**digits - 1))
    if aside.random() >= _SHARE_OF_DECIMALS:
        return price
    share = aside.random()
    cents = f"{aside.randint(1, 9)}" if share < 0.25 else f"{aside.randint(0, 99):02d}"
    return f"{price[: aside.choice((1, 2))]}.{aside.choice(('99', '95', '50')) if share > 0.8 else cents}"


def _aside(rng: random.Random) -> random.Random:
    """Another source that takes nothing from this one: what it decides leaves the pictures of shipped samples alone."""
    twin = random.Random()  # noqa: S311 - not for secrets
    twin.setstate(rng.getstate())
    return random.Random(f"another {twin.getrandbits(64)}")  # noqa: S311


def _fitting_px(texts: Sequence[str], width_px: float, height_px: float) -> int:
    """The largest size at which every text fits the width, and one line the height."""
    widest = max(text_width_px(text, 100) for text in texts)
    return int(min(height_px, 100 * width_px / widest))


def poster(rng: random.Random, lang: Lang, size: Size, num_prices: int = 2) -> Scene | None:
    """A product, and one or two prices.

    Args:
        rng: source of all choices.
        lang: language of the print.
        size: (width, height) in pixels.
        num_prices: 1 (no label) or 2 (an original and a current one).

    Returns:
        A scene, or None where the drawn text cannot be printed legibly.
    """
    width, height = size
    aside = _aside(rng)
    currency = rng.choice(_CURRENCY[lang])
    if aside.random() < _SHARE_OF_DOLLARS:
        currency = "$"
    has_title = num_prices == 1 or rng.random() < 0.7
    title = rng.choice(_PRODUCTS[lang])
    values: list[tuple[str, str]] = []
    blocks: list[list[str]] = []
    struck: list[bool] = []
    if num_prices == 1:
        number = _price(rng)
        values.append(("price_single", number))
        blocks.append([currency + number])
        struck.append(False)
    else:
        first, second = _price(rng), _price(rng)
        if float(first) == float(second):
            return None
        labels = rng.choice(_LABELS[lang])
        numbers = (first, second)
        values += zip(("price_original", "price_current"), numbers, strict=True)
        is_stacked = rng.random() < 0.35 and height >= 96
        gap = rng.choice(("", " ", ":")) if lang == "zh" else rng.choice((" ", ": "))
        for label, number in zip(labels, numbers, strict=True):
            blocks.append([label, currency + number] if is_stacked else [label + gap + currency + number])
        struck += [rng.random() < 0.3, False]
        if rng.random() < 0.5:
            blocks.reverse()
            struck.reverse()
    is_beside = num_prices == 2 and len(blocks[0]) == 2 and rng.random() < 0.5
    lines = _arrange(rng, size, title if has_title else None, blocks, struck, is_beside)
    if lines is None:
        return None
    return Scene(
        "poster",
        width,
        height,
        lines=tuple(lines),
        background=_tinted(rng),
        seed=rng.getrandbits(32),
        values=tuple(values),
    )


def _tinted(rng: random.Random) -> RGB:
    """Paper, sometimes a light yellow or pink one."""
    return rng.choice((paper(rng), paper(rng), (255, 244, 190), (255, 228, 226), (226, 240, 255)))


def _arrange(
    rng: random.Random,
    size: Size,
    title: str | None,
    blocks: Sequence[Sequence[str]],
    struck: Sequence[bool],
    is_beside: bool,
) -> list[TextLine] | None:
    """Lines of a poster: the title, then the blocks below or beside each other."""
    width, height = size
    columns = len(blocks) if is_beside else 1
    rows = (1 if title else 0) + (len(blocks[0]) if is_beside else sum(len(block) for block in blocks))
    room_x, room_y = 0.92 * width / columns, 0.94 * height / rows
    smallest_price = _SMALLEST_PRICE_SEEN_PX * math.sqrt(width * height) / _SEEN_SIDE_PX
    lines: list[TextLine] = []
    y = 0.03 * height

    def put(block: Sequence[str], column: int, top: float, ink: RGB, is_struck: bool, scale: float) -> bool:
        """Print lines below each other, close together, so that a label stays with its price."""
        biggest = _fitting_px(block, room_x, room_y)
        size_px = min(max(int(0.92 * biggest * scale), _SMALLEST_PX), biggest)
        smallest = max(_SMALLEST_PX, smallest_price if block[-1][-1].isdigit() else 0)
        if size_px < smallest:
            if biggest < smallest:
                return False
            size_px = math.ceil(smallest)
        left = 0.04 * width + column * (0.96 * width / columns)
        line_y = round(top + rng.random() * max(0.0, room_y * len(block) - 1.1 * size_px * len(block)))
        # A line through small print would hide it.
        is_struck = is_struck and size_px >= _SMALLEST_STRUCK_PX
        share = rng.random()
        for text in block:
            x = round(left + share * 0.98 * (room_x - text_width_px(text, size_px)))
            has_price = text is block[-1]
            lines.append(TextLine(text, x / width, line_y / height, size_px / height, ink, is_struck and has_price))
            line_y += round(1.1 * size_px)
        return True

    if title:
        column = 0 if columns == 1 else rng.randrange(columns)
        if not put([title], column, y, rng.choice(_INKS), False, 0.7):
            return None
        y += room_y
    for index, (block, is_struck) in enumerate(zip(blocks, struck, strict=True)):
        if not put(block, index if is_beside else 0, y, rng.choice(_INKS), is_struck, rng.uniform(0.8, 1.0)):
            return None
        if not is_beside:
            y += room_y * len(block)
    return lines


def _number_in(text: str) -> str:
    """The number at the end of a printed line."""
    return text[len(text.rstrip("0123456789.")) :]


def price_asker(name: str) -> Asker:
    """Asks a poster for one of its prices; the answer is the number alone."""

    def ask(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
        (scene,) = scenes
        answer = scene.value(name)
        if answer is None:
            return None
        prices = [text for key, text in scene.values if key.startswith("price_")]
        guesses: tuple[tuple[str, str], ...] = ()
        if len(prices) == 2:
            numbers = sorted(prices, key=float)
            if want not in (None, "low" if answer == numbers[0] else "high"):
                return None
            printed = sorted((line.y, line.x, line.is_struck, _number_in(line.text)) for line in scene.lines)
            offers = [(is_struck, text) for _, _, is_struck, text in printed if text]
            guesses = (
                ("the smaller number", numbers[0]),
                ("the upper price", offers[0][1]),
                ("the price not struck through", next(text for is_struck, text in offers if not is_struck)),
            )
        text = wording(rng, name, lang, _WORDS)
        return Question(name, lang, scenes, text, answer, "", answer, tuple(sorted(prices)), guesses)

    return ask


def poster_scene(num_prices: int) -> Builder:
    """Builds posters whose print is mostly in the question's language (Chinese print can be asked about in English)."""

    def build(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
        lang: Lang = "zh" if setup.lang == "zh" or rng.random() < 0.15 else "en"
        return one(poster(rng, lang, setup.size(rng), num_prices))

    return build


_TOP_VALUE = 9


def chart(rng: random.Random, size: Size) -> Scene | None:
    """Three to five labelled bars; their values are printed above them, or read off an axis from 0 to 9.

    Returns:
        A scene; None where the drawn values leave the tallest bar in doubt.
    """
    width, height = size
    num = rng.randint(3, 5)
    has_axis = rng.random() < 0.4 and height >= 96
    top_value = _TOP_VALUE if has_axis else rng.choice((9, 20, 60, 99))
    values = rng.sample(range(1, top_value + 1), num)
    ordered = sorted(values)
    if ordered[-1] < 1.12 * ordered[-2]:
        return None
    text_px = max(9, round(min(0.15 * height, 0.17 * width)))
    colours = rng.sample(COLOUR_NAMES, num)
    labels = "ABCDE"[:num] if rng.random() < 0.7 else rng.sample("ABCDE", num)
    left = text_px if has_axis else round(0.03 * width)
    bottom = height - text_px - 2
    top = (text_px / 2 + 2 if has_axis else text_px + 2) + (0 if has_axis else rng.uniform(0, 0.15) * height)
    unit = (bottom - top) / (top_value if has_axis else ordered[-1])
    slot = (width - left - 2) / num
    thick = slot * rng.uniform(0.55, 0.8)
    ink = (30, 30, 34)
    bars: list[Bar] = []
    lines: list[TextLine] = []

    def centred(text: str, x: float, y: float) -> None:
        x -= text_width_px(text, text_px) / 2
        lines.append(TextLine(text, round(x) / width, round(y) / height, text_px / height, ink))

    for index, (value, colour, label) in enumerate(zip(values, colours, labels, strict=True)):
        x = left + (index + 0.5) * slot
        y = bottom - unit * value
        box = ((x - thick / 2) / width, y / height, (x + thick / 2) / width, bottom / height)
        bars.append(Bar(label, value, colour, *box))
        centred(label, x, bottom + 1)
        if not has_axis:
            centred(str(value), x, y - text_px - 1)
    axis: list[float] = []
    if has_axis:
        for value in range(0, _TOP_VALUE + 1):
            y = bottom - unit * value
            axis.append(y / height)
            if value % 3 == 0:
                centred(str(value), text_px / 2, y - text_px / 2)
    return Scene(
        "chart",
        width,
        height,
        lines=tuple(lines),
        bars=tuple(bars),
        background=paper(rng),
        seed=rng.getrandbits(32),
        axis=tuple(axis),
    )


def ask_chart_tallest(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """The label or the colour of the tallest bar."""
    (scene,) = scenes
    tallest = max(scene.bars, key=lambda bar: bar.value)
    if want not in (None, tallest.label):
        return None
    form = rng.choice(("label", "colour"))
    offers = {bar.label: bar.label if form == "label" else say(bar.colour, lang) for bar in scene.bars}
    answer = offers[tallest.label]
    text = wording(rng, f"chart_tallest {form}", lang, _WORDS)
    return Question("chart_tallest", lang, scenes, text, answer, form, answer, tuple(sorted(offers.values())))


def ask_chart_value(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """The value of one bar."""
    (scene,) = scenes
    bar = rng.choice(scene.bars)
    text = wording(rng, "chart_value", lang, _WORDS).format(b=bar.label)
    form = "axis" if scene.axis else "printed"
    answer = str(bar.value)
    return Question(
        "chart_value", lang, scenes, text, answer, form, answer, tuple(sorted(str(other.value) for other in scene.bars))
    )


def scene_chart(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """A bar chart."""
    return one(chart(rng, setup.size(rng)))


_SHOPS = ("好邻居超市", "阳光书店", "小城面馆", "东风水果店", "绿叶茶行", "北门花店", "南园超市", "新光手机店")
_ITEMS = ("苹果", "牛奶", "咖啡", "面包", "大米", "毛巾", "水杯", "雨伞")
_RECEIPT_SIZES: tuple[Size, ...] = ((128, 192), (160, 224), (144, 224))


def receipt(rng: random.Random, size: Size | None = None) -> Scene:
    """A till receipt: shop, a few items, total, paid, change. Held out of training on purpose.

    Args:
        rng: source of all choices.
        size: (width, height) in pixels, at least 128 x 192; None draws one.
    """
    width, height = size or rng.choice(_RECEIPT_SIZES)
    items = rng.sample(_ITEMS, rng.randint(2, 3))
    prices = [rng.randint(2, 60) for _ in items]
    total = sum(prices)
    paid = total + rng.choice((0, rng.randint(1, 9), 10 - total % 10))
    shop = rng.choice(_SHOPS)
    rows: list[tuple[str, str]] = [(shop, "")]
    rows += [(item, str(price)) for item, price in zip(items, prices, strict=True)]
    rows += [("合计", f"¥{total}"), ("实付", f"¥{paid}"), ("找零", f"¥{paid - total}")]
    ink = (40, 40, 44)
    room = 0.94 * height / len(rows)
    size_px = int(min(0.8 * room, 0.92 * width / 6))
    lines: list[TextLine] = []
    for index, (left, right) in enumerate(rows):
        y = round(0.03 * height + index * room)
        x = 0.05 * width if right else (width - text_width_px(left, size_px)) / 2
        lines.append(TextLine(left, round(x) / width, y / height, size_px / height, ink))
        if right:
            x = 0.95 * width - text_width_px(right, size_px)
            lines.append(TextLine(right, round(x) / width, y / height, size_px / height, ink))
    return Scene(
        "receipt",
        width,
        height,
        lines=tuple(lines),
        background=paper(rng),
        seed=rng.getrandbits(32),
        values=(("receipt_shop", shop), ("receipt_total", str(total)), ("receipt_paid", str(paid))),
    )


def receipt_asker(name: str) -> Asker:
    """Asks a receipt for its shop, total or amount paid."""

    def ask(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
        (scene,) = scenes
        answer = scene.value(name)
        if answer is None:
            return None
        offers: tuple[str, ...] = ()
        if name != "receipt_shop":
            numbers = {line.text.lstrip("¥") for line in scene.lines}
            offers = tuple(sorted(text for text in numbers if text.isdigit()))
        return Question(name, lang, scenes, wording(rng, name, lang, _WORDS), answer, "", answer, offers)

    return ask


def scene_receipt(rng: random.Random, want: str | None, setup: Setup) -> Scenes | None:
    """A receipt; its own sizes, because it needs the room."""
    return one(receipt(rng))
