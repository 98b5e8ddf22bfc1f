"""Text files of other programs: read in the encoding they have, or refused; never guessed into other characters."""

import io
from pathlib import Path

import pytest

from router.cli.text_files import STDIN, TextFileError, detect_encoding, read_text_file

CHINESE = "question,image\r\n左边的箱子里有几个苹果？,桌子.png\r\n“图一”与图二哪个大？,\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gbk"])
@pytest.mark.parametrize("text", [CHINESE, "question\n几点了\n"], ids=["table", "short"])
def test_what_spreadsheets_write_is_read(tmp_path, encoding, text):
    file = tmp_path / "q.csv"
    file.write_bytes(text.encode(encoding))
    assert read_text_file(file, "en")[0] == text


def test_big_endian_with_a_mark_and_rare_characters_are_read(tmp_path):
    file = tmp_path / "q.csv"
    file.write_bytes(b"\xfe\xff" + CHINESE.encode("utf-16-be"))
    assert read_text_file(file, "en") == (CHINESE, "utf-16")
    rare = "question\n这个“㐀”字在图中出现了几次，分别是什么颜色？\n"
    file.write_bytes(rare.encode("gb18030"))
    assert read_text_file(file, "en") == (rare, "gb18030")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "question\nQuelle est la couleur du café ?\n"),
        ("cp1252", "question\nWie groß ist der Würfel?\n"),
        ("big5", "question\n圖中有幾個紅色的圓形？\n"),
        ("shift_jis", "question\nこれは何色ですか\n"),
        ("euc_jp", "question\nこれは何色ですか\n"),
        ("euc_kr", "question\n이 그림에서 무엇이 보이나요?\n"),
        ("euc_kr", "question\n大韓民國의 수도는?\n"),
        ("cp1251", "question\nКакого цвета этот ромб?\n"),
        ("koi8-r", "question\nКакого цвета этот ромб?\n"),
    ],
)
def test_an_encoding_that_is_not_certain_is_refused_until_it_is_named(tmp_path, encoding, text):
    # Given a file that decodes as GB18030, into other characters, or not at all
    file = tmp_path / "q.csv"
    file.write_bytes(text.encode(encoding))
    # When its encoding is to be found out, then it is refused in one line
    assert detect_encoding(file.read_bytes()) is None
    with pytest.raises(TextFileError, match="save it as UTF-8"):
        read_text_file(file, "en")
    # And read once somebody names it
    assert read_text_file(file, "en", encoding) == (text, encoding)


# Words whose bytes are common Chinese characters in GB18030.
SHORT = {
    "euc_jp": ("会社名", "製品番号", "大阪府", "価格表", "山田太郎", "犬", "注文数量", "短長"),
    "euc_kr": ("사진", "서울", "안녕하세요", "개", "대한민국", "수량 이름", "한국어"),
    "big5": ("貓", "價格", "公司名稱", "一二三"),
    "koi8-r": ("цена", "Москва", "кот и ёж"),
    "cp1251": ("ПРИВЕТ", "Имя"),
    "iso8859-5": ("да", "ЦЕНА"),
    "shift_jis": ("ｶﾒ", "ﾃﾞｰﾀ"),
    "gbk": ("貓",),
}


@pytest.mark.parametrize(("encoding", "text"), [(name, text) for name, texts in SHORT.items() for text in texts])
@pytest.mark.parametrize("table", ["{}", "question\n{}\n", "question,image\n{},a.png\n", "question\n{0}\n{0}\n"])
def test_a_few_foreign_characters_are_not_taken_for_chinese(tmp_path, encoding, text, table):
    file = tmp_path / "q.csv"
    file.write_bytes(table.format(text).encode(encoding))
    for language in ("en", "zh"):
        with pytest.raises(TextFileError, match="--encoding") as refusal:
            read_text_file(file, language)
        assert "\n" not in str(refusal.value)
    assert read_text_file(file, "en", encoding) == (table.format(text), encoding)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("euc_jp", "著者,月別,夏目漱石\n"),
        ("euc_jp", "一番,消色板,大人\n会社名,年度,内容\n一番,夏目漱石,大人\n"),
        ("euc_kr", "베이징,수량,年度\n"),
    ],
)
def test_one_rare_character_does_not_make_a_japanese_or_korean_table_chinese(tmp_path, encoding, text):
    file = tmp_path / "q.csv"
    file.write_bytes(text.encode(encoding))
    with pytest.raises(TextFileError, match=encoding):
        read_text_file(file, "en")


@pytest.mark.parametrize(
    ("encoding", "text", "named"),
    [
        ("euc_kr", "사과는 몇 개입니까?", "may be euc_kr"),
        ("koi8-r", "Сколько яблок на столе?", "may be koi8-r"),
        ("gbk", "价格", "may be gb18030, euc_kr, euc_jp"),
    ],
)
def test_a_refusal_names_the_encodings_that_it_may_be(tmp_path, encoding, text, named):
    file = tmp_path / "q.csv"
    file.write_bytes(f"question\n{text}\n".encode(encoding))
    with pytest.raises(TextFileError, match=named):
        read_text_file(file, "en")


@pytest.mark.parametrize(
    "text", ["这是什么？", "车子在哪边？", "圆周率有哪些近似值？", "总金额是多少", "请描述这张图片"]
)
def test_a_short_question_in_gbk_is_read(tmp_path, text):
    file = tmp_path / "q.csv"
    file.write_bytes(f"question\n{text}\n".encode("gbk"))
    assert read_text_file(file, "en") == (f"question\n{text}\n", "gb18030")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("iso2022_jp", "question\nこれは何色ですか\n"),
        ("iso2022_jp", "question\nえ\n"),
        ("iso2022_kr", "question\n이 그림에서 무엇이 보이나요?\n"),
        ("hz", "question\n图里有几只猫？\n"),
        ("utf-7", "question\n图里有几只猫？\n"),
        ("utf-7", "question\nIs 1 + 1 a café?\n"),
    ],
)
def test_an_encoding_of_seven_bits_does_not_pass_for_ascii(tmp_path, encoding, text):
    file = tmp_path / "q.csv"
    file.write_bytes(text.encode(encoding))
    for language in ("en", "zh"):
        with pytest.raises(TextFileError, match=f"--encoding {encoding}") as refusal:
            read_text_file(file, language)
        assert "\n" not in str(refusal.value)
    assert read_text_file(file, "en", encoding) == (text, encoding)


@pytest.mark.parametrize(
    "text",
    [
        "1+1=?",
        "What is +86 138 1234 5678?",
        "Is it C++ or C+?",
        "a+b-c",
        "data:image/png;base64,iVBOR+abcd/+x-",
        "~{a~}",
        "a +- b",
    ],
)
def test_plus_signs_and_tildes_are_still_ascii(tmp_path, text):
    file = tmp_path / "q.csv"
    file.write_text(f"question\n{text}\n")
    assert read_text_file(file, "en") == (f"question\n{text}\n", "utf-8")


@pytest.mark.parametrize("text", ["图", "猫", "校", "楼", "路", "位", "3楼", "未为"])
def test_few_chinese_characters_that_are_utf_8_too_are_not_guessed(tmp_path, text):
    # Given a file in GBK whose bytes decode as UTF-8, into one Greek or Cyrillic letter or a sign
    file = tmp_path / "q.csv"
    file.write_bytes(f"question\n{text}\n".encode("gbk"))
    assert file.read_bytes().decode("utf-8")
    # Then it is refused until somebody says what it is
    with pytest.raises(TextFileError, match="is not certain"):
        read_text_file(file, "en")
    assert read_text_file(file, "en", "gbk")[0] == f"question\n{text}\n"


@pytest.mark.parametrize(
    "text",
    ["café", "naïve façade", "25 °C", "10 kΩ", "5 µm", "£5", "3 ± 2", "привет", "Ωμέγα", "¿qué?", "שלום", "图", "猫?"],
)
def test_usual_words_and_signs_of_utf_8_are_read(tmp_path, text):
    file = tmp_path / "q.csv"
    file.write_bytes(f"question\n{text}\n".encode())
    assert read_text_file(file, "en") == (f"question\n{text}\n", "utf-8")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PK\x03\x04\x14\x00", "save the sheet as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "save the sheet as CSV"),
        (b"\x1f\x8b\x08\x00", "unpack it first"),
        (b"\x28\xb5\x2f\xfd\x00", "unpack it first"),
        (b"%PDF-1.7", "PDF"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\x00\x01\x02\x00", "is not certain"),
        (b"abc\x01\x02", "not a text file"),
    ],
)
def test_what_is_no_text_is_refused_by_what_it_is(tmp_path, data, said):
    file = tmp_path / "q.csv"
    file.write_bytes(data)
    with pytest.raises(TextFileError, match=said) as refusal:
        read_text_file(file, "en")
    assert "\n" not in str(refusal.value)
    with pytest.raises(TextFileError, match=r"[\u4e00-\u9fff]"):
        read_text_file(file, "zh")


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("ascii", "not in ascii"), ("utf-17", "no encoding is named 'utf-17'"), ("base64", "no encoding is named")],
)
def test_a_named_encoding_that_does_not_fit_is_refused(tmp_path, encoding, said):
    file = tmp_path / "q.csv"
    file.write_text("é", encoding="utf-8")
    with pytest.raises(TextFileError, match=said):
        read_text_file(file, "en", encoding)


def test_a_folder_and_a_file_that_is_gone_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none", Path("a\0b")):
        with pytest.raises(TextFileError, match="cannot read"):
            read_text_file(path, "en")


def test_a_dash_is_stdin(monkeypatch):
    class Stdin:
        buffer = io.BytesIO("你好".encode("utf-16"))

    monkeypatch.setattr("sys.stdin", Stdin)
    assert read_text_file(STDIN, "en") == ("你好", "utf-16")
