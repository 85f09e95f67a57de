"""Instructions composed from a task, and their edits: every one against what it must say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from tunewise.task.edits import clauses, edits, joined, names_labels
from tunewise.task.kind import default_instruction
from tunewise.task.types import Kind, Row, TaskSpec
from tunewise.task.wording import CopyCheck, compositions, describing_words

REVIEWS = (
    ("the food was great and the staff kind", "good"),
    ("great place with great music tonight", "good"),
    ("a great evening out", "good"),
    ("great value for the money we paid", "good"),
    ("awful service and cold soup", "bad"),
    ("the soup was awful", "bad"),
    ("awful noise all the night", "bad"),
    ("an awful place to be", "bad"),
) * 3


def rows_of(pairs: Sequence[tuple[str, str]]) -> tuple[Row, ...]:
    return tuple(Row(f"r{i}", given, wanted, (wanted,)) for i, (given, wanted) in enumerate(pairs))


def spec_of(kind: Kind, labels: tuple[str, ...] = (), name: str = "mood") -> TaskSpec:
    return TaskSpec(name, kind, default_instruction(kind, labels), labels, "accuracy")


LABELLED = spec_of(Kind.CLASSIFICATION, ("bad", "good"))
JSON_ROWS = rows_of(
    [
        (f"play song {i}", f'{{"intent": "{("play", "stop")[i % 2]}", "song": "s{i}"}}')
        for i in range(6)
    ]
)
TASKS = {
    "classification": (LABELLED, rows_of(REVIEWS)),
    "many labels": (
        spec_of(Kind.CLASSIFICATION, tuple(f"label{i}" for i in range(40))),
        rows_of([(f"text {i}", f"label{i}") for i in range(40)]),
    ),
    "one label": (spec_of(Kind.CLASSIFICATION, ("good",)), rows_of([("x", "good"), ("y", "good")])),
    "multi_label": (
        spec_of(Kind.MULTI_LABEL, ("bad", "good")),
        rows_of([("so so", "bad, good"), ("fine", "good")]),
    ),
    "short_answer": (spec_of(Kind.SHORT_ANSWER), rows_of([("Ann is 6", "6"), ("Bo is 7", "7")])),
    "generation": (spec_of(Kind.GENERATION), rows_of([("a b", "b a"), ("c d", "d c")])),
    "json": (spec_of(Kind.JSON), JSON_ROWS),
    "json without objects": (spec_of(Kind.JSON), rows_of([("a", "[1]"), ("b", "not json")])),
    "empty texts": (LABELLED, rows_of([("", "bad"), ("", "good")])),
}


def plain_log_odds(word: str, label: str, words: Sequence[str]) -> float:
    """Monroe et al. 2008, equations 15 to 22, with a plain loop over rows."""

    def count(term: str, own: bool) -> int:
        return sum((given == label) == own and term in text.split() for text, given in REVIEWS)

    everything = sum(count(term, own) for term in words for own in (True, False))
    prior = {
        term: (count(term, True) + count(term, False)) / everything * len(words) for term in words
    }
    odds = []
    for own in (True, False):
        mine = count(word, own) + prior[word]
        total = sum(count(term, own) + prior[term] for term in words)
        odds.append((math.log(mine / (total - mine)), 1 / mine))
    return (odds[0][0] - odds[1][0]) / math.sqrt(odds[0][1] + odds[1][1])


def test_the_words_of_a_label_are_those_a_plain_loop_finds() -> None:
    texts, labels = zip(*REVIEWS, strict=True)
    found = describing_words(texts, labels, 3)
    words = sorted(
        {
            word
            for text in texts
            for word in text.split()
            if len(word) > 2 and sum(word in other.split() for other in texts) > 1
        }
    )
    for label in ("bad", "good"):
        here = [text for text, given in REVIEWS if given == label]
        errors = {word: plain_log_odds(word, label, words) for word in words}
        telling = [
            word
            for word in sorted(words, key=lambda word: (-errors[word], word))
            if errors[word] >= 1.96 and sum(word in text.split() for text in here) > 1
        ]
        assert found[label] == tuple(telling[:3])
    assert found["good"][:1] == ("great",)
    assert found["bad"][:1] == ("awful",)


def test_no_word_of_a_single_row_and_no_name_of_a_label_describes() -> None:
    rows = [("zebra good good", "good"), ("other good", "good"), ("nothing bad", "bad")]
    texts, labels = zip(*rows, strict=True)
    assert describing_words(texts, labels, 5) == {"bad": (), "good": ()}
    assert describing_words([], [], 5) == {}


@pytest.mark.parametrize("which", TASKS)
@pytest.mark.parametrize("words", [0, 4])
def test_compositions_of_every_kind(which: str, words: int) -> None:
    spec, rows = TASKS[which]
    made = compositions(spec, rows, spec.instruction, words=words, seed=0)
    texts = [each.text for each in made]
    assert len(set(texts)) == len(texts) >= 4
    assert all(text == text.strip() and text for text in texts)
    assert all(each.name for each in made)
    assert made == compositions(spec, rows, spec.instruction, words=words, seed=0)
    other = compositions(spec, rows, spec.instruction, words=words, seed=1)
    assert {each.text for each in other} == set(texts)
    check = CopyCheck(spec, rows)
    assert not any(check.copied(text) for text in texts)


def test_what_is_composed_for_labels() -> None:
    texts = [
        each.text
        for each in compositions(
            LABELLED, rows_of(REVIEWS), "Judge the meal. Say bad or good.", words=2, seed=0
        )
    ]
    assert "Judge the meal." in texts
    assert "Is the text bad or good?" in texts
    assert "What is the mood of the text?" in texts
    assert "Judge the meal. Answer with bad (awful, soup) or good (great)." in texts
    assert "Judge the meal.\nLabels:\n- bad\n- good" in texts
    assert any(text.endswith("Answer with the label only.") for text in texts)


def test_what_is_composed_for_json_and_for_text() -> None:
    spec, rows = TASKS["json"]
    texts = [each.text for each in compositions(spec, rows, "Find the intent.", words=4, seed=0)]
    assert "Find the intent. The keys are intent, song." in texts
    assert any("- intent: play, stop\n- song" in text for text in texts)
    spec, rows = TASKS["generation"]
    made = compositions(spec, rows, "Turn it round.", words=4, seed=0)
    texts = [each.text for each in made]
    assert "Turn it round. Use about 2 words." in texts
    assert any("Use lower case." in text for text in texts)


def test_many_labels_are_not_listed() -> None:
    spec, rows = TASKS["many labels"]
    assert not any(
        "label7" in each.text
        for each in compositions(spec, rows, spec.instruction, words=4, seed=0)
    )


LONG = "One two, THREE four five six seven eight nine"


@pytest.mark.parametrize(
    ("text", "copied"),
    [
        (
            "Say: one two three four five six seven eight.",
            "one two three four five six seven eight",
        ),
        ("two three four five six seven eight nine", "two three four five six seven eight nine"),
        ("one two three four five six seven", ""),
        ("one two three four, six five seven eight nine", ""),
        ("", ""),
    ],
)
def test_a_run_of_words_of_a_training_row_is_seen(text: str, copied: str) -> None:
    assert CopyCheck(LABELLED, rows_of([("short", "bad"), (LONG, "good")])).copied(text) == copied


@pytest.mark.parametrize(
    ("row", "text", "copied"),
    [
        ("Where is my card?", "Sort it. For example: where is my card", "where is my card"),
        ("Where is my new card now?", "Where is my new card", ""),
        ("my card", "Is it about my card or another?", ""),
    ],
)
def test_a_whole_short_row_is_a_copy_and_a_phrase_is_not(row: str, text: str, copied: str) -> None:
    assert CopyCheck(LABELLED, rows_of([(row, "bad"), (LONG, "good")])).copied(text) == copied


def test_answers_count_as_rows_unless_they_are_labels() -> None:
    long = "a b c d e f g h"
    assert not CopyCheck(LABELLED, rows_of([("x", long)])).copied(long)
    assert CopyCheck(spec_of(Kind.GENERATION), rows_of([("x", long)])).copied(long) == long
    chinese = "这个产品的质量非常好"
    assert CopyCheck(LABELLED, rows_of([(chinese, "good")])).copied(f"请判断 {chinese}")


INSTRUCTION = "Please classify the text (a review). Answer with one of: bad, good."


def test_clauses_keep_lists_together_and_join_again() -> None:
    text = "Classify it. Be quick!\nLabels:\n- bad: awful\n- good\nAnswer:"
    assert clauses(text) == (
        "Classify it.",
        "Be quick!",
        "Labels:\n- bad: awful\n- good",
        "Answer:",
    )
    assert joined(clauses(INSTRUCTION)) == INSTRUCTION
    assert joined(["One.", "Two:\n- a", "Three."]) == "One.\nTwo:\n- a\nThree."
    assert clauses("") == ()
    assert clauses("e.g. 3.5 stars") == ("e.g.", "3.5 stars")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("swap 1", "Answer with one of: bad, good. Please classify the text (a review)."),
        ("drop 1", "Answer with one of: bad, good."),
        ("drop 2", "Please classify the text (a review)."),
        ("merge 1", "Please classify the text (a review); answer with one of: bad, good."),
        ("shorten 1", "Classify the text. Answer with one of: bad, good."),
        ("list by |", "Please classify the text (a review). Answer with one of: bad | good."),
        ("separator", "Please classify the text (a review).\nAnswer with one of: bad, good."),
        ("end with 'Answer:'", f"{INSTRUCTION} Answer:"),
    ],
)
def test_every_edit(name: str, wanted: str) -> None:
    assert dict(edits(INSTRUCTION, ("bad", "good")))[name] == wanted


def test_the_list_of_labels_moves_and_its_words_are_halved() -> None:
    text = "One.\nLabels:\n- bad: w, x, y\n- good: z\nTwo. Three."
    made = dict(edits(text, ("bad", "good")))
    assert made["labels last"] == "One.\nTwo.\nThree.\nLabels:\n- bad: w, x, y\n- good: z"
    assert made["shorten 2"] == "One.\nLabels:\n- bad: w, x\n- good: z\nTwo.\nThree."


@pytest.mark.parametrize(
    "text", ["", " ", "One", "日本語。", "- a\n- b", "Answer:", "a\n\n\nb", "((", "?!"]
)
def test_edits_of_odd_texts(text: str) -> None:
    made = edits(text, ("a", "b"))
    assert all(edited.strip() and edited != text for _, edited in made)
    assert len({edited for _, edited in made}) == len(made)


@pytest.mark.parametrize(
    ("text", "labels", "named"),
    [
        ("bad or good", ("bad", "good"), True),
        ("a badly made good", ("bad", "good"), False),
        ("one two", ("one", "two", "three", "four"), True),
        ("one", ("one", "two", "three", "four"), False),
        ("anything", (), False),
        ("C++ or C#", ("c#", "c++"), True),
    ],
)
def test_where_labels_are_named(text: str, labels: tuple[str, ...], named: bool) -> None:
    assert names_labels(text, labels) is named
