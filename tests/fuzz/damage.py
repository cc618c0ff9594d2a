"""Ways in which a file's bytes go wrong."""

from hypothesis import strategies as st


@st.composite
def damaged(draw, content):
    """Bytes that were truncated, overwritten or lengthened, or are others altogether."""
    how = draw(st.sampled_from(["truncated", "overwritten", "flipped", "longer", "other", "zeros"]))
    place = draw(st.integers(0, max(0, len(content) - 1)))
    some = draw(st.binary(min_size=1, max_size=8))
    if how == "truncated":
        return content[:place]
    if how == "overwritten":
        return content[:place] + some + content[place + len(some) :]
    if how == "flipped":
        flipped = bytes([content[place] ^ (1 << draw(st.integers(0, 7)))]) if content else b""
        return content[:place] + flipped + content[place + 1 :]
    if how == "longer":
        return content[:place] + some + content[place:]
    if how == "zeros":
        return content[:place] + bytes(len(content) - place)
    return draw(st.binary(max_size=64))
