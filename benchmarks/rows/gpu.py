"""Steps on a CUDA device, beside what the card can do at most: bytes moved a second, and floating-point operations a second.

The two ceilings are measured first, by a large copy and a large matrix product. Then the steps of `throughput` and of `fine_tuning`, the
latter in turns with sentence-transformers, each with the part of a ceiling that it reaches, and the part of the time in which the card works
at all; then the softmax in blocks beside the plain one. Where no package carries all-MiniLM-L6-v2, an encoder of its shape with weights drawn
at random is tuned: the same work.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import quality, sets, speed
from benchmarks.environments import MADE, ask
from benchmarks.rows import HERE, Asked, Figure
from benchmarks.rows.blockwise import batch_of, vectors, ways
from benchmarks.rows.fine_tuning import WINDOW
from twotower import config as configs
from twotower.data import pretrained

SIZES, TUNED = (4096, 65536), (64, 512)  # pairs a batch
PRECISIONS = ("float32", "bfloat16")
WARM, STEPS = 10, 60
SHAPE = {"vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
GIGA, TERA = 1e9, 1e12


def median(work: Callable[[], Any], times: int = 20, warm: int = 3) -> float:
    """The seconds that a piece of work keeps the card, by its own clock."""
    took = []
    for turn in range(warm + times):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()  # type: ignore[no-untyped-call]
        work()
        ended.record()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        if turn >= warm:
            took.append(begun.elapsed_time(ended) / 1000)
    return statistics.median(took)


def ceilings(size: int) -> dict[str, float]:
    """Bytes a second that a copy reads and writes, operations a second of a product in each precision."""
    found = {}
    left, right = torch.randn(2, size, size, device="cuda")
    found["bytes"] = 2 * left.nbytes / median(lambda: right.copy_(left))
    for precision in PRECISIONS:
        kind = torch.float32 if precision == "float32" else torch.bfloat16
        a, b = left.to(kind), right.to(kind)
        found[precision] = 2 * size**3 / median(lambda a=a, b=b: a @ b)
    return found


def measure(asked: Asked) -> Iterator[Figure]:
    """The ceilings, then the steps."""
    top = ceilings(512 if asked.smoke else 8192)
    name = torch.cuda.get_device_name()
    told = f"{top['bytes'] / GIGA:,.0f} GB a second; {top['bfloat16'] / TERA:.0f} (bfloat16) and {top['float32'] / TERA:.0f} (float32) TFLOP a second"
    yield Figure(f"{name}: a copy; a product", told, "", top)
    yield from ids(asked, top)
    yield from tuning(asked, top)
    yield from softmax(asked)


def ids(asked: Asked, top: dict[str, float]) -> Iterator[Figure]:
    """Id towers of 64."""
    warm, steps = (1, 2) if asked.smoke else (WARM, STEPS)
    sets.made("clicks")
    for size in SIZES[:1] if asked.smoke else SIZES:
        for precision in PRECISIONS:
            settings = [f"train.batch_size={size}", f"train.precision='{precision}'", *asked.settings]
            seen = speed.card("throughput", settings, warm, steps)
            rate = seen["rate"]
            work = 3 * 2 * size * size * 64 * rate / size  # three products a step
            # Each logit is written by a product, read and replaced by its gradient, which two products read.
            moved = 5 * 4 * size * size * rate / size
            shares = f"{work / top[precision]:.0%} of the rate of products, {moved / top['bytes']:.0%} of that of copies"
            told = f"{rate:,.0f} pairs a second, {1000 * size / rate:.1f} ms a step; {shares}; {busy(seen)}"
            yield Figure(f"id towers of 64, {size:,} pairs, {precision}", told, "", seen | {"products": work, "bytes": moved})


def busy(seen: dict[str, Any]) -> str:
    """How much of a step the card works, and on what."""
    most = ", ".join(f"{name} {share:.0%}" for name, share in list(seen["kernels"].items())[:3])
    return f"the card works {seen['busy']:.0%} of the time while it is watched ({most})"


def tuning(asked: Asked, top: dict[str, float]) -> Iterator[Figure]:
    """A sentence encoder of six layers."""
    warm, steps = (1, 2) if asked.smoke else (WARM, STEPS)
    sets.made("tldr")
    folder = pretrained.shipped() or drawn_encoder(asked.folder / "encoder")
    side = "{type='pretrained',column='%s',tune=true,window=%d,folder='%s'}"
    places = [f"{name}.features=[{side % (column, WINDOW, folder)}]" for name, column in (("query", "query"), ("item", "description"))]
    chosen = configs.read(HERE / "recipes" / "fine_tuning.toml", [*places, *asked.settings])
    prepared = quality.prepared_of(chosen, MADE / "prepared")
    log, words = quality.log_of(prepared), quality.words_of(prepared)
    tokens = sum(float(tokens_of(prepared, side)) for side in ("query", "item"))
    layers, width, inner = SHAPE["num_hidden_layers"], SHAPE["hidden_size"], SHAPE["intermediate_size"]
    weights = layers * (4 * width * width + 2 * width * inner)
    for size in TUNED[:1] if asked.smoke else TUNED:
        for precision in PRECISIONS[1:]:
            settings = [*places, f"train.batch_size={size}", f"train.precision='{precision}'", *asked.settings]
            seen = speed.card("fine_tuning", settings, warm, steps)
            rate = seen["rate"]
            given = {"batch_size": size, "warm": warm, "steps": steps, "precision": precision, "window": WINDOW}
            given |= {"device": "cuda", "folder": str(folder)}
            facts = ask("tuning_speed", given, {"rows": log["rows"], "items": log["items"]}, **words).facts
            other = facts["pairs"] / facts["seconds"]
            work = 6 * weights * tokens * rate  # of its products by weights, padding left out
            told = f"{rate:,.0f} pairs a second, {rate / other:.2f}x the {other:,.0f} of sentence-transformers"
            told += f"; {work / top[precision]:.0%} of the rate of products; {busy(seen)}"
            yield Figure(f"tuning an encoder of MiniLM's shape, {size} pairs, {precision}", told, "", seen | {"peer": other, "products": work})


def tokens_of(prepared: Any, side: str) -> float:
    """How many tokens a text of a side has, on average over the pairs."""
    rows = quality.log_of(prepared)["rows" if side == "query" else "items"]
    (column,) = prepared.columns[side].values()
    return float((column.offsets[rows + 1] - column.offsets[rows]).mean())


def drawn_encoder(folder: Path) -> Path:
    """An encoder of MiniLM's shape with weights drawn at random; its words are those that most pages of tldr are described with."""
    if (folder / "model.safetensors").exists():
        return folder
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel

    tokeniser = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokeniser.normalizer, tokeniser.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=SHAPE["vocab_size"], special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    table = pq.read_table(sets.made("tldr") / "items.parquet")
    tokeniser.train_from_iterator(table.column("description").to_pylist(), trainer)
    tokeniser.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    torch.manual_seed(0)
    BertModel(BertConfig(**SHAPE), add_pooling_layer=False).save_pretrained(folder)
    tokeniser.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told | {"model_max_length": 512}), encoding="utf-8")
    return folder


def once(of: Callable[[list[torch.Tensor]], torch.Tensor], size: int) -> tuple[int, torch.Tensor]:
    """The bytes that a loss and its gradients take at most, and the gradient of the queries."""
    given = [one.detach().cuda().requires_grad_() for one in vectors(size)]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    of(given).backward()  # type: ignore[no-untyped-call]
    gradient = given[0].grad
    assert gradient is not None
    return torch.cuda.max_memory_allocated() - before, gradient


def softmax(asked: Asked) -> Iterator[Figure]:
    """In blocks beside plain, with the most memory that each takes beyond what is given to it."""
    size = 512 if asked.smoke else 32768
    batch = batch_of(size)
    found = {way: (median(lambda of=of: once(of, size), times=5, warm=1), *once(of, size)) for way, of in ways(batch).items()}
    seconds, most, exact = found["plain"]
    for way, (own, memory, gradient) in found.items():
        off = float((gradient - exact).norm() / exact.norm())
        told = f"{1000 * own:.1f} ms, {seconds / own:.1f}x; {memory / 1e6:.0f} MB, 1/{most / memory:.0f}; gradients differ by {off:.1e}"
        yield Figure(f"softmax {size:,} x {size:,} x 64, forward and backward, {way}", told, "", {"seconds": own, "bytes": memory, "off": off})
