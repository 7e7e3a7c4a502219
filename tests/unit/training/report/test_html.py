"""Markup: whatever data says, it stays text."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.training.report.html import Html, datum, element, join


class Reader(HTMLParser):
    """An independent reader: the elements it meets, their attributes, and the text between."""

    def __init__(self, markup):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


anything = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=60)


@given(anything, anything)
def test_text_comes_out_as_it_went_in(text, value):
    read = Reader(element("p", text, aria_label=value))
    assert read.tags == ["p"]
    assert read.text == text
    assert read.attributes == [("aria-label", value)]


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "</style><svg onload=alert(1)>",
        "javascript:alert(1)",
        "&lt;b&gt;",
        "' onmouseover='alert(1)",
    ],
)
def test_hostile_values_are_text(hostile):
    read = Reader(element("div", datum(hostile), title=hostile))
    assert read.tags == ["div", "bdi"]
    assert read.text == hostile
    assert read.attributes == [("title", hostile)]


def test_two_pieces_put_together_as_texts_are_escaped_again():
    """What is not made here is not believed: not even a sum of two that were."""
    assert element("p", Html("<b>") + "</b>") == "<p>&lt;b&gt;&lt;/b&gt;</p>"
    assert element("p", join("<", element("b", "x"))) == "<p>&lt;<b>x</b></p>"


def test_what_cannot_be_written_or_seen_is_made_visible():
    assert datum("a\u202eb\x07") == "<bdi>a⟨202E⟩b⟨0007⟩</bdi>"
    assert datum("") == '<span class="soft">empty text</span>'
    assert datum("  ") == '<span class="soft">blank text</span>'
    assert element("p", "\ud800 \x00").encode() == "<p>\ufffd \ufffd</p>".encode()
    assert len(Reader(datum("x" * 500)).text) == 60


def test_attributes_that_are_not_there():
    assert element("a", hidden=True, title=None, open=False, x=1.5) == '<a hidden x="1.5"></a>'
