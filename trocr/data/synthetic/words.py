"""Words for a machine that has no word list: common English ones, and made-up ones of common syllables.

Source: original work.
"""

import numpy as np

COMMON = """
the of and to in is that for it as was with be by on not he his but at are this have from or had an they which
one you were all her she there would their we him been has when who will no more if out so said what up its
about into than them can only other time new some could these two may first then do any like my now over such
our man me even most made after also did many off before must well back through years much where your way down
should because long each just state those people too little good world make very year still see work life
being day men
between never another know while last might us great old came under go against take right three place
himself same hand without water small house both during number part found home again big four school side door
office open price total order item table paper street road book page letter week month money name city company
service change list line card bread milk coffee sugar rice
"""

_STARTS = """
b bl br c ch cl cr d dr f fl fr g gl gr h j k l m n p ph pl pr qu r s sc sh sl sp st str t th tr v w
"""
_VOWELS = "a e i o u ai ea ee io oa ou y"
_ENDS = "- - - b ck d g l ll m n nd ng nt p r rd rt s ss st t x"
_ENDINGS = "- - - s ed er est ing ion ity ly ment ness ous"


def builtin_words(count: int = 6000) -> list[str]:
    """Give words, the same ones each time: the common ones often, made-up ones for variety."""
    rng = np.random.default_rng(20211)
    starts, vowels, ends, endings = (
        [part.strip("-") for part in table.split()] for table in (_STARTS, _VOWELS, _ENDS, _ENDINGS)
    )

    def pick(table: list[str]) -> str:
        return table[rng.integers(len(table))]

    made = []
    for _ in range(count):
        syllables = [pick(starts) + pick(vowels) + pick(ends) for _ in range(int(rng.integers(1, 4)))]
        made.append("".join(syllables) + pick(endings))
    return COMMON.split() * 8 + made
