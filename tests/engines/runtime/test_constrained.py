"""Whatever a model would like to say, what comes out of a finished constrained answer satisfies its schema."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import jsonschema
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("llguidance")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers.convert_slow_tokenizer import bytes_to_unicode  # noqa: E402

from engines.base import GenerationFailedError, InvalidRequestError, SamplingParams  # noqa: E402
from engines.json_schema import ANY_OBJECT, FORMATS  # noqa: E402
from engines.runtime.constrained import Constraint, GrammarCompiler, _explain, constrain  # noqa: E402
from engines.runtime.sampling import Sampler, pick_tokens  # noqa: E402

MERGED = ['{"', '":', '","', '"}', "the", " cat", "你", "好", "12", "\n\n", "true", "null", "\\u", "\\"]
END, USER, THINK, THINK_END, BOX = "<|endoftext|>", "<|user|>", "<think>", "</think>", "<|begin_of_box|>"
NUM_LOGITS = 320  # padded beyond the vocabulary, as the real one is
RECORD = (
    '{"type":"object","properties":{"a":{"type":"string","maxLength":6}},"required":["a"],"additionalProperties":false}'
)


def make_tokenizer() -> Tokenizer:
    """Every byte, some longer pieces, and marks of which only some are called special."""
    to_visible = bytes_to_unicode()
    vocabulary = {character: index for index, character in enumerate(sorted(to_visible.values()))}
    for text in MERGED:
        vocabulary.setdefault("".join(to_visible[byte] for byte in text.encode()), len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END, USER])
    tokenizer.add_tokens([THINK, THINK_END, BOX])
    return tokenizer


TOKENIZER = make_tokenizer()
ID = {mark: TOKENIZER.token_to_id(mark) for mark in (END, USER, THINK, THINK_END, BOX)}
STOP_IDS = {ID[END], ID[USER]}
NEWLINE = TOKENIZER.token_to_id("Ċ")
COMPILER = GrammarCompiler(SimpleNamespace(backend_tokenizer=TOKENIZER), NUM_LOGITS, STOP_IDS)


def start(schema: object, **asleep: int) -> Constraint:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    return COMPILER.compile(text).start(**({"asleep_until": None} | asleep))


def allowed(constraint: Constraint) -> set[int]:
    row = constrain(torch.zeros(1, NUM_LOGITS), [constraint])[0]
    return set(row.isfinite().nonzero().flatten().tolist())


def to_text(ids: list[int]) -> str:
    return TOKENIZER.decode([id_ for id_ in ids if id_ not in STOP_IDS], skip_special_tokens=False)


def write(constraint: Constraint, rng: random.Random, max_tokens: int = 300) -> list[int]:
    """Choose among the allowed at random, often the likes of which end things, as a model does."""
    closing = {TOKENIZER.token_to_id(text) for text in ('"', "}", "]", "]}", '"}')} - {None} | STOP_IDS
    ids: list[int] = []
    while not constraint.is_complete and len(ids) < max_tokens:
        choices = sorted(allowed(constraint))
        ending = [id_ for id_ in choices if id_ in closing]
        ids.append(rng.choice(ending if ending and rng.random() < 0.5 else choices))
        constraint.accept(ids[-1])
    return ids


# --- what comes out -------------------------------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "total", "名称", 'quo"te', "back\\slash"])


def bounds(low: str, high: str, values: st.SearchStrategy[int]) -> st.SearchStrategy[dict[str, int]]:
    pair = st.tuples(values, values).map(sorted)
    return pair.flatmap(
        lambda both: st.sampled_from([{}, {low: both[0]}, {high: both[1]}, {low: both[0], high: both[1]}])
    )


strings = st.one_of(
    bounds("minLength", "maxLength", st.integers(0, 8)).map(lambda extra: {"type": "string", **extra}),
    st.sampled_from(
        [
            {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$", "maxLength": 6},
            {"enum": ["red", "绿", "", 3, None, True]},
            {"const": {"a": [1, "x"]}},
        ]
    ),
)
numbers = st.one_of(
    bounds("minimum", "maximum", st.integers(-50, 5000)).map(lambda extra: {"type": "integer", **extra}),
    bounds("exclusiveMinimum", "maximum", st.integers(-9, 900)).map(
        lambda extra: {"type": "number", **(extra if len(set(extra.values())) == len(extra) else {})}
    ),
    st.integers(2, 60).map(lambda step: {"type": "integer", "multipleOf": step}),
)
leaves = st.one_of(strings, numbers, st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"$ref": "#/$defs/leaf"}]))


def branches(children: st.SearchStrategy[dict]) -> st.SearchStrategy[dict]:
    properties = st.dictionaries(names, children, min_size=1, max_size=3)
    return st.one_of(
        st.tuples(properties, st.sets(names), st.booleans()).map(
            lambda parts: {
                "type": "object",
                "properties": parts[0],
                "required": sorted(parts[1] & set(parts[0])),
                "additionalProperties": parts[2] and {"type": "integer"},
            }
        ),
        st.tuples(children, bounds("minItems", "maxItems", st.integers(0, 3))).map(
            lambda parts: {"type": "array", "items": parts[0], **parts[1]}
        ),
        st.lists(children, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
    )


schemas = st.recursive(leaves, branches, max_leaves=6).map(
    lambda root: {**root, "$defs": {"leaf": {"type": "string", "maxLength": 3}}}
)


@settings(derandomize=True, deadline=None, max_examples=120)
@given(schemas, st.integers(0, 2**16))
def test_a_complete_answer_parses_and_satisfies_its_schema_whatever_was_chosen(schema, seed):
    # Given a schema, and somebody who picks any of the allowed tokens
    constraint = start(schema)

    # When the answer comes to its end
    text = to_text(write(constraint, random.Random(seed)))

    # Then strict parsers take it and it validates; and an answer that was cut does not say that it is complete
    if constraint.is_complete:
        jsonschema.validate(json.loads(text), schema)
        orjson.loads(text)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 2**16))
def test_json_mode_gives_one_object_without_white_space_between_its_parts(seed):
    constraint = start(ANY_OBJECT)

    text = to_text(write(constraint, random.Random(seed)))

    if constraint.is_complete:
        value = json.loads(text)
        assert isinstance(value, dict)
        assert text[0] == "{"
        assert text[-1] == "}"
        assert "\n" not in text


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 2**16))
def test_strings_hold_no_raw_control_characters_and_no_lone_surrogates(seed):
    constraint = start({"type": "string", "maxLength": 12})

    text = to_text(write(constraint, random.Random(seed)))

    assert not any(ord(character) < 0x20 or ord(character) == 0x7F for character in text)
    if constraint.is_complete:
        json.loads(text).encode()  # raises for a surrogate


def test_a_surrogate_cannot_be_written_as_an_escape():
    # Given a string that has begun
    constraint = start({"type": "string"})
    for character in '"\\u':
        constraint.accept(TOKENIZER.token_to_id(character))

    # Then the escape can only become one of a control character
    assert {TOKENIZER.decode([id_]) for id_ in allowed(constraint)} == {"0"}


def test_an_answer_cut_by_its_bound_never_says_that_it_is_complete():
    constraint = start(record_of({"type": "string"}))
    for character in '{"a":"' + "x" * 50:  # a string without a bound has no end of its own
        constraint.accept(TOKENIZER.token_to_id(character))

    assert not constraint.is_complete


def test_marks_that_callers_never_see_cannot_stand_inside_the_json():
    constraint = start(RECORD)
    for character in '{"a":"':
        constraint.accept(TOKENIZER.token_to_id(character))

    assert allowed(constraint).isdisjoint(ID.values())


def test_every_stop_token_is_allowed_where_the_schema_is_satisfied_and_nowhere_else():
    constraint = start({"type": "integer"})

    before = allowed(constraint)
    constraint.accept(TOKENIZER.token_to_id("1"))
    after = allowed(constraint)
    is_complete_before = constraint.is_complete
    constraint.accept(ID[USER])

    assert before.isdisjoint(STOP_IDS)
    assert after >= STOP_IDS
    assert (is_complete_before, constraint.is_complete) == (False, True)


def test_an_answer_is_complete_as_soon_as_nothing_can_follow():
    constraint = start({"type": "boolean"})

    constraint.accept(TOKENIZER.token_to_id("true"))

    assert constraint.is_complete


# --- thinking -------------------------------------------------------------------------------------------------------


def test_thinking_is_free_but_cannot_end_the_answer_and_the_schema_holds_after_it():
    # Given a row that thinks
    constraint = start(RECORD, asleep_until=ID[THINK_END])

    # Then anything goes but ending
    assert allowed(constraint) == set(range(NUM_LOGITS)) - STOP_IDS
    constraint.accept(TOKENIZER.token_to_id("the"))
    assert not constraint.is_complete

    # And after the thinking only an object, perhaps behind the newline of the model's layout, and only one of those
    constraint.accept(ID[THINK_END])
    opening = {TOKENIZER.token_to_id("{")}
    assert allowed(constraint) == opening | {NEWLINE}
    constraint.accept(NEWLINE)
    assert allowed(constraint) == opening


def test_a_model_that_may_think_either_begins_to_or_answers_at_once():
    marks = {"asleep_from": ID[THINK], "asleep_until": ID[THINK_END]}
    thinking, direct = start(RECORD, **marks), start(RECORD, **marks)
    opening = {TOKENIZER.token_to_id("{")}
    assert allowed(thinking) == opening | {ID[THINK]}

    thinking.accept(ID[THINK])
    direct.accept(TOKENIZER.token_to_id("{"))

    assert allowed(thinking) == set(range(NUM_LOGITS)) - STOP_IDS
    assert allowed(direct) == {TOKENIZER.token_to_id('"')}


# --- beside other rows ----------------------------------------------------------------------------------------------


def test_rows_are_held_to_their_own_schema_and_free_rows_stay_as_they_are():
    logits = torch.randn(4, NUM_LOGITS, generator=torch.Generator().manual_seed(1))
    before = logits.clone()
    first, second = start({"type": "boolean"}), start({"type": "array"})

    masked = constrain(logits, [None, first, None, second])

    assert torch.equal(logits, before)
    assert torch.equal(masked[[0, 2]], logits[[0, 2]])
    for row, constraint in ((1, first), (3, second)):
        assert set(masked[row].isfinite().nonzero().flatten().tolist()) == allowed(constraint)
        assert torch.equal(masked[row][masked[row].isfinite()], logits[row][masked[row].isfinite()])


def test_without_a_constraint_nothing_is_copied():
    logits = torch.zeros(2, NUM_LOGITS)

    assert constrain(logits, [None, None]) is logits


def test_a_step_can_be_done_again_and_masks_alike():
    constraints = [start(RECORD), start(RECORD, asleep_until=ID[THINK_END]), start(ANY_OBJECT)]
    logits = torch.zeros(3, NUM_LOGITS)

    first = constrain(logits, constraints)
    again = constrain(logits[[2, 0]], [constraints[2], constraints[0]])

    assert torch.equal(again, first[[2, 0]])
    assert torch.equal(constrain(logits, constraints), first)


def test_the_token_comes_from_the_allowed_and_its_log_probability_from_the_model():
    # Given a model that is sure of a token which the schema forbids
    logits = torch.zeros(1, NUM_LOGITS)
    logits[0, TOKENIZER.token_to_id("the")] = 9.0
    constraint = start({"type": "boolean"})

    for params in (SamplingParams(top_logprobs=1), SamplingParams(temperature=1.0, seed=3, top_logprobs=1)):
        (pick,) = pick_tokens(logits, [Sampler(params)], constrain(logits, [constraint]))

        # Then the chosen one is allowed, and the numbers say what the model would have said
        assert pick.token_id in allowed(constraint)
        assert pick.logprob == pytest.approx(logits[0].log_softmax(-1)[pick.token_id].item(), abs=1e-5)
        assert pick.top[0][0] == TOKENIZER.token_to_id("the")


def test_a_forbidden_token_is_an_error_of_that_row():
    constraint = start({"type": "boolean"})

    with pytest.raises(GenerationFailedError):
        constraint.accept(TOKENIZER.token_to_id("the"))


# --- schemas that are refused ---------------------------------------------------------------------------------------


def record_of(value: object) -> dict[str, object]:
    return {"type": "object", "properties": {"a": value}, "required": ["a"]}


def chain(length: int, value: object = None) -> dict[str, object]:
    defs = {f"d{i}": record_of({"$ref": f"#/$defs/d{i + 1}"}) for i in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{length}": {"type": "string"}}}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (record_of({"not": {"type": "string"}}), "'not' (at /properties/a)"),
        (record_of({"type": "array", "uniqueItems": True}), "'uniqueItems'"),
        ({"if": {}, "then": {"type": "string"}}, "'if'"),
        ({"type": "object", "propertyNames": {"minLength": 2}}, "'propertyNames'"),
        (record_of({"oneOf": [{"type": "string"}, {"enum": ["x"]}]}), "'oneOf'"),
        (record_of({"type": "string", "pattern": "(?=a)b"}), "'pattern'"),
        (record_of({"type": "string", "pattern": "("}), "'pattern'"),
        (record_of({"type": "integer", "minimum": 5, "maximum": 3}), "No answer can satisfy"),
        ({"type": "string", "pattern": "^a$", "minLength": 5}, "a pattern, format or length in it rules out"),
        (record_of({"type": "string", "pattern": "^a$", "minLength": 5}), "required property 'a' is unsatisfiable."),
        ({"type": "strin"}, "strin"),
        ({"type": "integer", "minimum": 10**20}, "'minimum: 1e+20'"),
        ({"$ref": "https://example.com/schema.json"}, "'$ref'"),
        ({"$ref": "file:///etc/passwd"}, "'$ref'"),
        ({"$ref": "#/$defs/missing"}, "leads nowhere"),
        ({"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(3000)}}, "too complex"),
        ({"enum": ["x" * 120_000]}, "100000"),
        (chain(400), "too complex"),
        (record_of({"allOf": [{"type": "string", "pattern": f".*{c}.*"} for c in "abcdefghijklmn"]}), "too complex"),
        ({"type": "integer", "multipleOf": 999_999_937}, "too complex"),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused_by_name(schema, said):
    with pytest.raises(InvalidRequestError) as caught:
        start(schema)

    error = caught.value
    assert said in error.message
    assert "Regex" not in error.message
    assert (error.status_code, error.code, error.param) == (400, "invalid_json_schema", "response_format")


def test_the_compilers_own_words_are_not_passed_on():
    assert "followed. Accepted are" in _explain("stopped: NoExtensionBias").message
    assert "followed: something else. Accepted are" in _explain("something else").message


def test_a_schema_that_grows_too_complex_behind_its_beginning_fails_its_own_row_only():
    # Given one whose size shows only once a string has begun, beside another row
    pattern = {"type": "string", "pattern": "^(a?){5000}(a){5000}$"}
    schema = {"type": "object", "properties": {"b": {"type": "boolean"}, "a": pattern}, "required": ["b", "a"]}
    growing, other = start(schema), start(RECORD)
    for character in '{"b":true,"a":"':
        growing.accept(TOKENIZER.token_to_id(character))

    def go_on() -> None:
        for _ in range(50):
            constrain(torch.zeros(2, NUM_LOGITS), [growing, other])
            growing.check()
            growing.accept(TOKENIZER.token_to_id("a"))

    # When it goes on, step by step
    with pytest.raises(InvalidRequestError, match="too complex"):
        go_on()

    # Then the other row is as it was
    other.check()
    masked = constrain(torch.zeros(2, NUM_LOGITS), [growing, other])
    assert set(masked[1].isfinite().nonzero().flatten().tolist()) == allowed(other)


@pytest.mark.parametrize("text", ["[]", "true", "{", '{"enum":["\\ud800"]}', '{"a":' * 200 + "1" + "}" * 200])
def test_text_that_is_no_usable_schema_is_refused(text):
    with pytest.raises(InvalidRequestError):
        COMPILER.compile(text)


@pytest.mark.parametrize(
    "schema",
    [
        record_of({"type": "array", "uniqueItems": False, "items": {"type": "null"}, "maxItems": 1}),
        record_of({"type": "string", "maxLength": 2, "title": "t", "description": "d", "default": "x", "examples": []}),
        {"type": "object", "properties": {"not": {"type": "null"}, "if": {"type": "null"}}, "required": ["not"]},
        {"oneOf": [{"type": "boolean"}, {"type": "null"}]},
        {"oneOf": [{"$ref": "#/$defs/a"}, {"type": "null"}], "$defs": {"a": record_of({"type": "string"})}},
        record_of({"type": "string", "format": "uri-reference"}),
        record_of({"type": "string", "format": "email", "pattern": "^(?!x)"}),
        record_of({"type": "string", "minLength": 1.0, "maxLength": 8.0}),
        record_of({"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "number"}}),
        record_of({"type": "object", "propertyNames": {"enum": ["x"]}, "additionalProperties": {"type": "number"}}),
        {"$ref": "#/$defs/项", "$defs": {"项": {"type": "string"}, "lost": {"not": {}}}},
        chain(40),
        {"$defs": {"node": record_of({"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]})}, "$ref": "#/$defs/node"},
    ],
)
def test_what_says_nothing_or_can_be_kept_is_accepted(schema):
    assert not start(schema).is_complete


@pytest.mark.parametrize("known", sorted(FORMATS))
def test_every_format_that_we_say_is_kept_is_known_to_the_compiler(known):
    constraint = start({"type": "string", "format": known})
    constraint.accept(TOKENIZER.token_to_id('"'))

    assert len(allowed(constraint)) < len(allowed_in_any_string())


def allowed_in_any_string():
    constraint = start({"type": "string"})
    constraint.accept(TOKENIZER.token_to_id('"'))
    return allowed(constraint)


def test_definitions_that_can_be_read_in_many_ways_are_refused_in_the_first_steps():
    # Given 40 definitions that are the next one or a list of it, and strings or lists all the same: 2**40 readings
    def link(index):
        next_one = {"$ref": f"#/$defs/d{index + 1}"}
        return {"type": ["string", "array"], "anyOf": [next_one, {"type": "array", "items": next_one}]}

    defs = {f"d{index}": link(index) for index in range(40)}
    constraint = start({"$ref": "#/$defs/d0", "$defs": {**defs, "d40": {"type": "string", "maxLength": 8}}})

    def go_on():
        for _ in range(10):
            allowed(constraint)
            constraint.check()
            constraint.accept(TOKENIZER.token_to_id("["))

    with pytest.raises(InvalidRequestError, match="too complex"):
        go_on()


def test_a_caller_cannot_switch_white_space_on():
    constraint = start({"type": "object", "x-guidance": {"whitespace_flexible": True}})

    constraint.accept(TOKENIZER.token_to_id("{"))

    assert NEWLINE not in allowed(constraint)


def test_properties_come_in_the_order_of_the_schema():
    schema = {"type": "object", "properties": {name: {"type": "null"} for name in "zab"}, "required": list("abz")}
    schema["additionalProperties"] = False

    text = to_text(write(start(schema), random.Random(0)))

    assert text == '{"z":null,"a":null,"b":null}'


# --- the compiler ---------------------------------------------------------------------------------------------------


def test_a_schema_is_compiled_once_and_the_oldest_is_forgotten():
    compiler = GrammarCompiler(SimpleNamespace(backend_tokenizer=TOKENIZER), NUM_LOGITS, STOP_IDS)

    first = compiler.compile(RECORD)
    assert compiler.compile(RECORD) is first
    for number in range(64):
        compiler.compile(json.dumps({"const": number}))

    assert compiler.compile(RECORD) is not first


def test_threads_compile_and_start_side_by_side():
    def answer(number: int) -> str:
        schema = {"enum": [f"value {number % 5}"]}
        return to_text(write(start(schema), random.Random(number)))

    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(answer, range(40)))

    assert texts == [f'"value {number % 5}"' for number in range(40)]


def test_one_answer_does_not_move_another_of_the_same_schema():
    grammar = COMPILER.compile(RECORD)
    first, second = grammar.start(asleep_until=None), grammar.start(asleep_until=None)

    first.accept(TOKENIZER.token_to_id("{"))

    assert allowed(second) == {TOKENIZER.token_to_id("{")}


# --- the budget -----------------------------------------------------------------------------------------------------

ENDLESS = [
    record_of_texts := {
        "type": "object",
        "properties": {"name": {"type": "string"}, "place": {"type": "string"}, "note": {"type": "string"}},
        "required": ["name", "place", "note"],
        "additionalProperties": False,
    },
    {"type": "object", "properties": {"lines": {"type": "array", "items": {"type": "string"}}}, "required": ["lines"]},
    {"type": "object", "properties": {"rows": {"type": "array", "items": record_of_texts}}, "required": ["rows"]},
    {"type": "object", "additionalProperties": {"type": "string"}},
    {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
    {"type": "object"},
    {"$ref": "#/$defs/N", "$defs": {"N": {**record_of_texts, "required": ["name", "kids"]}}},
]
ENDLESS[-1]["$defs"]["N"]["properties"] = {
    "name": {"type": "string"},
    "kids": {"type": "array", "items": {"$ref": "#/$defs/N"}},
}


@pytest.mark.parametrize("schema", ENDLESS)
@pytest.mark.parametrize("max_tokens", [120, 400])
@pytest.mark.parametrize("habit", ["babbles", "circles", "lists"])
def test_a_model_that_never_ends_a_text_or_a_list_is_brought_to_an_end(schema, max_tokens, habit):
    # Given a model that never closes what it may go on with
    constraint = COMPILER.compile(json.dumps(schema)).start(asleep_until=None, max_tokens=max_tokens)
    ending = {id_ for id_ in range(TOKENIZER.get_vocab_size()) if TOKENIZER.decode([id_])[:1] in ('"', "}", "]")}
    avoided = {"babbles": ending | STOP_IDS, "circles": ending | STOP_IDS, "lists": STOP_IDS}[habit]
    rng = random.Random(1)

    # When it writes until it may not
    ids = []
    while not constraint.is_complete and len(ids) < max_tokens:
        choices = sorted(allowed(constraint))
        going_on = [id_ for id_ in choices if id_ not in avoided] or choices
        ids.append(going_on[0] if habit == "circles" else rng.choice(going_on))
        constraint.accept(ids[-1])

    # Then the answer is whole, within its tokens
    assert constraint.is_complete
    jsonschema.validate(json.loads(to_text(ids)), schema)


@pytest.mark.parametrize(
    "format_", ["email", "uri", "hostname", "date-time", "date", "time", "duration", "ipv4", "ipv6", "uuid"]
)
def test_a_format_that_may_go_on_for_ever_is_brought_to_its_end(format_):
    # Given a model that never ends what it may go on with, nor writes a mark before it must
    schema = record_of({"type": "string", "format": format_})
    constraint = COMPILER.compile(json.dumps(schema)).start(asleep_until=None, max_tokens=120)
    marks = {id_ for id_ in range(TOKENIZER.get_vocab_size()) if TOKENIZER.decode([id_])[:1] in '"@:.}'}

    ids: list[int] = []
    while not constraint.is_complete and len(ids) < 120:
        choices = sorted(allowed(constraint))
        ids.append(([id_ for id_ in choices if id_ not in marks] or choices)[0])
        constraint.accept(ids[-1])

    assert constraint.is_complete
    assert json.loads(to_text(ids))


def test_what_fits_is_left_alone():
    # Given an answer with one long text and two short ones
    words = " ".join(str(number) for number in range(10, 60))
    text = json.dumps({"name": words, "place": "z", "note": "n"}, separators=(",", ":"))
    ids = [TOKENIZER.token_to_id(character.replace(" ", "Ġ")) for character in text]
    constraint = COMPILER.compile(json.dumps(record_of_texts)).start(asleep_until=None, max_tokens=900)

    # When it is written in a budget of which each text has a third
    for id_ in ids:
        assert id_ in allowed(constraint)
        constraint.accept(id_)

    # Then nothing of it was cut
    assert constraint.is_complete


def test_thinking_counts_as_tokens_of_the_answer():
    grammar = COMPILER.compile(json.dumps(record_of_texts))
    constraint = grammar.start(asleep_until=ID[THINK_END], max_tokens=200)
    for _ in range(140):
        constraint.accept(TOKENIZER.token_to_id("the"))
    constraint.accept(ID[THINK_END])

    num_tokens = 141
    while not constraint.is_complete and num_tokens < 200:
        choices = allowed(constraint)
        constraint.accept(max(choices - STOP_IDS or choices))
        num_tokens += 1

    assert constraint.is_complete


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "number"},
        {"type": "integer"},
        {"type": ["number", "null"], "minimum": 0},
        record_of({"anyOf": [{"type": "number"}, {"type": "null"}]}),
    ],
)
def test_a_number_without_bounds_ends_by_itself(schema):
    # Given somebody who never stops writing digits
    constraint = start({**schema, "additionalProperties": False} if "properties" in schema else schema)
    digits = {TOKENIZER.token_to_id(character) for character in "0123456789."}

    num_tokens = 0
    while not constraint.is_complete and num_tokens < 60:
        choices = allowed(constraint) - STOP_IDS
        constraint.accept(min(choices & digits or choices))
        num_tokens += 1

    # Then the schema does
    assert constraint.is_complete


def test_bounds_beyond_our_own_are_kept():
    schema = {"type": "array", "items": {"type": "integer", "minimum": 10**18}, "minItems": 1, "maxItems": 1}
    constraint = start({**schema, "items": {**schema["items"], "maximum": 10**18 + 5}})

    (value,) = json.loads(to_text(write(constraint, random.Random(0))))

    assert 10**18 <= value <= 10**18 + 5
