# ruff: noqa: E501, RUF001
"""Errors of the token estimate and of the tokenizer; prints one JSON line. With --fit it prints the estimate's weights, fitted anew.

    python -m benchmarks.counting            # estimate against the vocabulary, and both against recorded usage where there is any
    python -m benchmarks.counting --fit      # milli-tokens a byte of each class, for gateway/tokens.py

The texts are the standard library's (English prose, code), machine formats made here, and sentences in other languages written for
this file. Halves of the texts alternate: one is fitted, the error is that of the other. Recorded answers are read from
../shared/transcripts when that folder is present.
"""

from __future__ import annotations

import argparse
import base64
import glob
import hashlib
import json
import random
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import yaml

from gateway.tokens import WEIGHTS, Weights, classes, estimate, estimate_prompt, vocabulary

SIZE = 2000
LOWER = 60
LANGUAGES = {
    "chinese": (
        "深度学习模型的价格取决于输入和输出的长度。如果前缀已经在缓存里，费用会低很多；如果没有命中，就按照标准价格计算。团队可以为每个月设定预算，超过以后请求会被拒绝。"
        "昨天下午我们测试了新的版本，发现它在数学题上比旧版本好得多，但是思考的时间也更长了。请把下面这段文字翻译成英文，并且保留原来的格式。"
        "春天的时候，院子里的花都开了，孩子们放学以后喜欢在树下玩耍。老人坐在门口喝茶，谈论今年的收成和城里的新鲜事。"
        "函数接收两个参数：第一个是用户的名字，第二个是订单的编号；返回值为订单的状态。数据库连接失败时应当重试三次，并把错误写入日志。"
    ),
    "japanese": (
        "新しいモデルは数学の問題に強く、答えの前に長く考えます。料金は入力と出力のトークン数によって決まりますので、毎月の予算を設定してください。"
        "昨日は雨でしたが、今日はとても良い天気です。駅前の小さな店でコーヒーを飲みながら、友達と旅行の計画を立てました。"
    ),
    "korean": (
        "요청의 가격은 입력과 출력의 길이에 따라 달라집니다. 앞부분이 이미 캐시에 있으면 비용이 훨씬 적게 듭니다. 어제 새 버전을 시험해 보았는데 수학 문제를 더 잘 풀었습니다. "
        "봄이 되면 마당에 꽃이 피고 아이들은 나무 아래에서 놉니다. 다음 글을 영어로 번역하고 형식을 그대로 유지해 주세요. "
    ),
    "signs": (
        "Done ✅ 3 of 5 checks passed 🎉 — see “Results” below… • first → next ≥ 10 ½ × 2. Oops 😅 that failed ❌ again; try 🔧 later. Thanks 🙏🏽 — “ok”. "
        "Temperature 21 °C ± 0.5, price 5 € or £4. Sum ∑x² ≤ √n · π. "
    ),
    "russian": (
        "Стоимость запроса зависит от длины входного текста и ответа. Если начало запроса уже есть в кэше, цена будет намного ниже. "
        "Вчера мы проверили новую версию: она лучше решает задачи, но думает дольше. Пожалуйста, переведите следующий текст и сохраните его форматирование."
    ),
    "french": (
        "Le prix d'une requête dépend de la longueur du texte envoyé et de la réponse. Hier, nous avons essayé la nouvelle version : elle réfléchit "
        "plus longtemps, mais résout mieux les problèmes. Voulez-vous traduire ce passage en conservant sa mise en forme ?"
    ),
    "german": (
        "Der Preis einer Anfrage hängt von der Länge der Eingabe und der Antwort ab. Gestern haben wir die neue Fassung geprüft: sie denkt länger "
        "nach, löst die Aufgaben aber besser. Bitte übersetzen Sie den folgenden Abschnitt und behalten Sie die Gliederung bei."
    ),
}


def texts() -> Iterator[tuple[str, str]]:
    """(kind, text of about 2,000 characters), in a fixed order."""
    yield from (("prose", part) for part in cut("\n".join(topics[name] for name in sorted(topics)), 80))
    library = Path(sysconfig.get_paths()["stdlib"])
    for name in ("argparse", "typing", "decimal", "socket", "json/decoder", "ast", "calendar"):
        yield from (("code", part) for part in cut((library / f"{name}.py").read_text(encoding="utf-8"), 12))
    for kind, sample in LANGUAGES.items():
        yield from ((kind, part) for part in cut(shuffled(sample), 8))
    for kind, lines in (("json", records()), ("numbers", tables()), ("encoded", blobs()[: SIZE * 6]), ("markdown", notes())):
        yield from ((kind, part) for part in cut(lines, 16))


def cut(text: str, most: int) -> list[str]:
    return [text[at : at + SIZE] for at in range(0, len(text), SIZE)][:most]


def shuffled(sample: str) -> str:
    """The sentences of a sample many times over, in varied order."""
    dice = random.Random(sample)
    sentences = [part + mark for mark in "。." for part in sample.split(mark) if part.strip() and mark in sample]
    return "".join(dice.choice(sentences) for _ in range(600))


def records() -> str:
    dice = random.Random(1)
    words = sorted({word for word in topics["lambda"].split() + topics["class"].split() if word.isalpha()})
    rows = [
        {"id": dice.randrange(10**6), "name": " ".join(dice.choices(words, k=2)), "active": dice.random() < 0.5,
         "tags": dice.choices(words, k=3), "score": round(dice.random() * 100, 2), "created_at": f"2026-11-{dice.randrange(1, 29):02d}T10:00:00Z"}
        for _ in range(400)
    ]  # fmt: skip
    return json.dumps(rows[:200], indent=2) + "\n".join(map(json.dumps, rows[200:]))


def tables() -> str:
    dice = random.Random(2)
    return "\n".join(",".join(f"{dice.random() * 10 ** dice.randrange(7):.{dice.randrange(5)}f}" for _ in range(8)) for _ in range(600))


def blobs() -> str:
    dice = random.Random(3)
    return "\n".join(
        base64.b64encode(dice.randbytes(48)).decode() + " " + hashlib.sha256(dice.randbytes(8)).hexdigest() for _ in range(400)
    )


def notes() -> str:
    dice = random.Random(4)
    plain = [line.strip() for line in topics["objects"].splitlines() if line.strip()]
    marks = ("# ", "- ", "1. ", "> ", "**", "| ", "```\n")
    return "\n".join(dice.choice(marks) + dice.choice(plain) for _ in range(800))


def solve(rows: Sequence[Sequence[float]], targets: Sequence[float]) -> list[float]:
    """Least squares with weights that are not negative: a negative one is set to 0 and the rest is solved again."""
    active = list(range(len(rows[0])))
    while True:
        found = dict(zip(active, gauss([[row[k] for k in active] for row in rows], targets), strict=True))
        worst = min(found, key=lambda k: found[k])
        if found[worst] >= 0:
            return [found.get(k, 0.0) for k in range(len(rows[0]))]
        active.remove(worst)


def gauss(rows: Sequence[Sequence[float]], targets: Sequence[float]) -> list[float]:
    size = len(rows[0])
    table = [
        [sum(row[i] * row[j] for row in rows) + (1e-9 if i == j else 0) for j in range(size)]
        + [sum(row[i] * target for row, target in zip(rows, targets, strict=True))]
        for i in range(size)
    ]
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(table[k][i]))
        table[i], table[pivot] = table[pivot], table[i]
        table[i] = [value / table[i][i] for value in table[i]]
        for k in range(size):
            if k != i:
                table[k] = [value - table[k][i] * base for value, base in zip(table[k], table[i], strict=True)]
    return [row[size] for row in table]


def fit(samples: list[tuple[str, str]]) -> Weights:
    """Weights that make the relative error small over all kinds.

    `lower` is set, not fitted: left alone it becomes 0, for word starts explain prose best, and a long run of letters would be free.
    """
    lower = Weights._fields.index("lower")
    counted = [(vocabulary().count(text), classes(text)) for _, text in samples]
    rows = [[0.0 if k == lower else count / tokens for k, count in enumerate(found)] for tokens, found in counted]
    targets = [1 - LOWER / 1000 * found.lower / tokens for tokens, found in counted]
    return Weights(*(round(weight * 1000) for weight in solve(rows, targets)))._replace(lower=LOWER)


Pair = tuple[int, int]


def spread(pairs: Sequence[Pair]) -> dict[str, float]:
    """Of pairs (found, true), in per cent: the error of the sum, the mean error, and the 95th percentile of its size."""
    errors = [found / true - 1 for found, true in pairs]
    size = sorted(map(abs, errors))
    return {
        "texts": len(pairs),
        "sum": round(100 * (sum(found for found, _ in pairs) / sum(true for _, true in pairs) - 1), 2),
        "bias": round(100 * sum(errors) / len(errors), 2),
        "p95": round(100 * size[min(len(size) - 1, int(len(size) * 0.95))], 2),
    }


def by_kind(samples: list[tuple[str, str]]) -> dict[str, dict[str, float]]:
    pairs: dict[str, list[Pair]] = {}
    for kind, text in samples:
        pairs.setdefault(kind, []).append((estimate(text), vocabulary().count(text)))
    pairs["all"] = [pair for kind in pairs.values() for pair in kind]
    return {kind: spread(found) for kind, found in pairs.items()}


def recorded(folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    """(request, usage, reasoning and answer) of each recorded answer; no text where it called tools."""
    for name in sorted(glob.glob(str(folder / "deepseek/**/*.yaml"), recursive=True)):
        for exchange in yaml.safe_load_all(Path(name).read_text(encoding="utf-8")):
            if exchange and exchange["then"]["status"] == 200:
                usage, text = answer_of(exchange["then"]["body"])
                yield json.loads(exchange["when"]["body"]), usage, "" if '"tool_calls"' in exchange["then"]["body"] else text


def answer_of(body: str) -> tuple[dict[str, Any], str]:
    if not body.startswith("data:"):
        whole = json.loads(body)
        return whole["usage"], said(whole["choices"][0]["message"])
    usage: dict[str, Any] = {}
    text = ""
    for line in body.splitlines():
        if line.startswith("data: {"):
            chunk = json.loads(line[6:])
            usage = chunk.get("usage") or usage
            text += "".join(said(choice["delta"]) for choice in chunk["choices"])
    return usage, text


def said(message: dict[str, Any]) -> str:
    return str(message.get("reasoning_content") or "") + str(message.get("content") or "")


def against_usage(folder: Path) -> dict[str, dict[str, float]]:
    """Errors against what the host reported: of the prompt's estimate, and of the answer by vocabulary and by estimate."""
    exact: list[Pair] = []
    estimated: list[Pair] = []
    prompts: dict[bool, list[Pair]] = {False: [], True: []}
    for request, usage, text in recorded(folder):
        tools = bool(request.get("tools"))
        # Switching thinking on adds a hidden instruction of about 80 tokens: a constant, which would drown short prompts.
        if usage["prompt_tokens"] < 100 and request.get("thinking") == {"type": "enabled"}:
            continue
        prompts[tools].append((estimate_prompt(request["messages"], request.get("tools"), reasoning=tools), usage["prompt_tokens"]))
        if text:
            ends = int("completion_tokens_details" in usage)
            exact.append((vocabulary().count(text) + ends, usage["completion_tokens"]))
            estimated.append((estimate(text) + ends, usage["completion_tokens"]))
    named = {"prompt": prompts[False], "prompt_with_tools": prompts[True], "answer_by_vocabulary": exact, "answer_by_estimate": estimated}
    return {name: spread(pairs) for name, pairs in named.items() if pairs}


def speed() -> dict[str, float]:
    text = ("def total(rows):\n    return sum(row.price for row in rows)  # an example\n" * 4000)[: 256 * 1024]
    took = []
    for _ in range(20):
        start = time.perf_counter()
        estimate(text)
        took.append(time.perf_counter() - start)
    start = time.perf_counter()
    vocabulary().count(text)
    return {"estimate_ms_of_256_kb": round(min(took) * 1000, 3), "vocabulary_ms_of_256_kb": round((time.perf_counter() - start) * 1000, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help="print fitted weights instead")
    parser.add_argument("--transcripts", type=Path, default=Path(__file__).parents[2] / "shared" / "transcripts")
    options = parser.parse_args()
    samples = list(texts())
    if options.fit:
        print(fit(samples[::2]))
        return
    report = {
        "weights": WEIGHTS._asdict(),
        "unseen": by_kind(samples[1::2]),
        "recorded": against_usage(options.transcripts),
        "speed": speed(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
