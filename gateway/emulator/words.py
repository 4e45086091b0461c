"""Deterministic text of an exact number of tokens: the suite can re-count what the emulator says it produced.

Every piece between two bars is one token of DeepSeek's vocabulary, and every prefix that starts at a sentence
tokenises to exactly its pieces (tests/test_emulator.py proves it with the real tokenizer).
"""

from __future__ import annotations

_ENGLISH = (
    "The| fare| gate| opens| when| a| trav|eller| taps| the| card|,| holds| the| largest| fare| that| the| trip| may| cost|,| and|"
    " settles| the| true| amount| at| the| exit|.| Each| train| that| leaves| the| station| carries| people| to| work|,| to| school|"
    " and| back| home| in| the| evening|.| A| good| reason|er| first| checks| the| question|,| then| writes| each| step| on| its| own|"
    " line|,| and| keeps| only| the| result| that| it| can| prove|.| If| two| numbers| seem| equal|,| compare| their| digits| from|"
    " left| to| right|:| nine| point| eight| is| greater| than| nine| point| eleven|,| because| eight| tenth|s| are| more| than| one|"
    " tenth|.| Straw|berry| contains| three| letters| like| that|;| count| them| slowly|,| one| by| one|,| without| skipping| any| of|"
    " them|.| So| the| answer| follows|:| the| second| number| is| larger|,| and| the| difference| is| small| but| certain|."
)
_CHINESE = (
    "检|票|口|打开|，|旅客|刷卡|，|系统|先|冻结|最高|票价|，|出|站|时|再|结算|实际|费用|。|推理|模型|先|检查|问题|，|然后|一步一步|"  # noqa: RUF001
    "写出|过程|，|最后|给出|答案|。|因此|，|第二个|数字|更大|，|差别|很小|，|但是|非常|确定|。"  # noqa: RUF001
)
_CODE = (
    " def| fare|(start|,| end|):\n|    |cost| =| table|[start|][|end|]\n|    |return| max|(c|ost|,| |2|)\n\n|"
    "for| trip| in| trips|:\n|    |print|(f|are|(t|rip|.start|,| trip|.end|))"
)
PIECES: tuple[str, ...] = tuple("|".join((_ENGLISH, _CHINESE, _CODE)).split("|"))
STARTS: tuple[int, ...] = tuple(
    [0] + [index + 1 for index, piece in enumerate(PIECES[:-1]) if piece in (".", "。") and PIECES[index + 1] != " def"]
)


def text_pieces(seed: int, count: int) -> list[str]:
    """`count` tokens of text, the same for the same seed; joined, they tokenise to exactly `count`."""
    start = STARTS[seed % len(STARTS)]
    turns = (start + count) // len(PIECES) + 1
    return list((PIECES * turns)[start : start + count])
