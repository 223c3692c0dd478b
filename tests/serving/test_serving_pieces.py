"""Text from tokens that come one by one."""

from quantop_serving.pieces import PieceDecoder


def decode(tokens: list[int]) -> str:
    """A fake tokenizer: bytes of UTF-8, whose text loses a space at its beginning."""
    return bytes(tokens).decode(errors="replace").removeprefix(" ")


def pieces(text: str) -> list[str]:
    decoder = PieceDecoder(decode)
    return [decoder.add(token) for token in text.encode()]


def test_each_token_adds_its_text() -> None:
    assert pieces("a b  c") == ["a", " ", "b", " ", " ", "c"]


def test_a_character_comes_when_it_is_whole() -> None:
    assert pieces("aé日x") == ["a", "", "é", "", "", "日", "x"]


def test_the_pieces_are_the_text() -> None:
    text = "The 日本語 of\n\n😀  it — é"
    assert "".join(pieces(text)) == text
