"""A request's first words show the asker's language, however much of another language it brings."""

import pytest

from policies.decide import decide
from policies.features import Hints, Question, measure
from policies.language import identify
from policies.openers import find_opener
from policies.rules import load_preset

# With English names, titles and texts: each of these has as many English words as its own, or more.
OTHER = (
    "Traduis en anglais : I would like to order a coffee",
    "Traduis : The weather is nice today and I am happy",
    "Übersetze ins Deutsche: How old are you and where do you live?",
    "Traduce al español: the quick brown fox jumps over the lazy dog",
    "Traduci: I will be there in ten minutes",
    "Vertaal: What time is it?",
    'Lies den Text: "Please do not smoke"',
    'Lies die Schilder: "No smoking", "Exit"',
    'Lis le texte: "Keep off the grass"',
    "was bedeutet machine learning",
    "Was heißt How do you do auf Deutsch?",
    "Wer hat Game of Thrones geschrieben?",
    "Wer spielt in The Lord of the Rings The Two Towers mit?",
    "Qui a joué dans Star Wars The Last Jedi ?",
    "Que veut dire To be or not to be ?",
    "¿Qué significa keep calm and carry on?",
    "Che cosa significa break a leg?",
    "O que significa piece of cake?",
    "Wat betekent work in progress?",
    "Peux-tu me dire what is in the picture?",
    "Je veux a summary of this picture please",
    "Combien de people are in the picture?",
    "Zeig mir the cat",
    "Name alle Tiere",
)
ENGLISH = (
    "Who sang Non, je ne regrette rien?",
    "Who wrote À la recherche du temps perdu?",
    "How do you say bonjour in English?",
    "Can you help me avec cette image ?",
    "What does Ich bin ein Berliner mean?",
    "Translate to French: where is the station",
    "Translate this: Où sont les toilettes ?",
    "what films does kristen stewart star in?",
    # First words that are German, French, Italian or Spanish too
    "Comment on the colours of the picture.",
    "Lies and statistics: what does the chart show?",
    "Come closer: what is on the label?",
    "Name the animals in the picture.",
    "Dove or pigeon?",
    "Hay bales: how many are there?",
    "Lee is holding which cup?",
    "Die or dice: which is the plural?",
)


@pytest.mark.parametrize("text", OTHER)
def test_a_request_about_english_words_is_in_the_language_of_its_first_words(text):
    assert identify(text).language == "other"
    assert decide(measure(Question(text), Hints()), load_preset("seed")).route == "fast"


@pytest.mark.parametrize("text", ENGLISH)
def test_an_english_request_about_other_words_is_english(text):
    assert identify(text).language == "en"


@pytest.mark.parametrize(
    "title", ["Who Framed Roger Rabbit, qui double Jessica en français ?", "How I Met Your Mother, qui joue Barney ?"]
)
def test_an_english_title_opens_no_request(title):
    assert find_opener(title) is None
    assert identify(title).language == "other"
