"""A generator that was begun frees what it owns, read from or not."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from router.begun import as_begun


class Owner:
    """Says two words; notes that it was closed."""

    is_closed = False

    async def words(self, *said: str) -> AsyncGenerator[str, None]:
        try:
            for word in said:
                yield word
        finally:
            self.is_closed = True


async def test_what_was_begun_is_read_whole() -> None:
    owner = Owner()

    assert [word async for word in await as_begun(owner.words("a", "b", "c"))] == ["a", "b", "c"]
    assert owner.is_closed
    assert [word async for word in await as_begun(Owner().words())] == []


async def test_closing_it_frees_what_it_owns_before_and_after_the_first_word() -> None:
    for num_read in range(3):
        owner = Owner()
        words = await as_begun(owner.words("a", "b"))
        for _ in range(num_read):
            await anext(words)

        await words.aclose()

        assert owner.is_closed
        assert await anext(words, None) is None
