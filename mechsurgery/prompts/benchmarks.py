"""Benchmarks in the formats they are published in: MMLU, XSTest, JBB-Behaviors; local files or hub ids.

A file is read as text (numbers in answers stay as written); a bad record is one error that names its line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import check_arguments
from ..errors import PromptError, listed
from .contrasts import ContrastSet
from .files import read_cells, read_records, read_table
from .sets import Prompt, PromptSet, without_duplicates
from .sources import hub_table, load_contrast

LETTERS = ("A", "B", "C", "D")
MMLU_HUB = "cais/mmlu"
XSTEST_HUB = "walledai/XSTest"
_MMLU_COLUMNS = ("subject", "question", "choice0", "choice1", "choice2", "choice3", "answer")


@dataclass(frozen=True)
class _Question:
    subject: str
    question: str
    options: tuple[str, ...]
    answer: int


def load_mmlu(
    source: str | Path = MMLU_HUB,
    *,
    shots: int = 0,
    dev: str | Path | None = None,
    subjects: Sequence[str] | None = None,
    n: int | None = None,
    seed: int = 0,
) -> PromptSet:
    """Multiple-choice questions of MMLU (Hendrycks et al. 2021), grouped by subject, answered by a letter.

    `source` is a CSV, TSV or Parquet file with columns subject, question, choice0 … choice3, answer (index or
    letter) or question, subject, choices, answer; a folder of the original header-less `*_test.csv`; or the hub
    id "cais/mmlu". `shots` solved examples of the same subject come first, from `dev` (same formats; the hub's
    own "dev" split by default). `n` questions at most, spread over subjects. Raises `PromptError` naming the
    line of a bad record.
    """
    if shots < 0:
        raise PromptError(f"shots={shots}; give 0, or 5 as in the paper")
    questions = _questions(source, "test")
    if subjects is not None:
        unknown = sorted(set(subjects) - {q.subject for q in questions})
        if unknown:
            raise PromptError(
                f"no subject {listed(unknown)}; there are {listed(sorted({q.subject for q in questions}))}"
            )
        questions = [q for q in questions if q.subject in subjects]
    examples: dict[str, list[_Question]] = {}
    if shots:
        if dev is None and str(source) != MMLU_HUB:
            raise PromptError(f"shots={shots} needs solved examples; pass dev=, a file of MMLU's dev split")
        for question in _questions(dev or MMLU_HUB, "dev"):
            examples.setdefault(question.subject, []).append(question)
        short = sorted({q.subject for q in questions if len(examples.get(q.subject, ())) < shots})
        if short:
            raise PromptError(f"fewer than {shots} examples of {listed(short)} in dev; lower shots or give more")
    counts: dict[str, int] = {}
    prompts = []
    for question in questions:
        number = counts[question.subject] = counts.get(question.subject, -1) + 1
        shown = [e for e in examples.get(question.subject, []) if e.question != question.question][:shots]
        prompts.append(_mmlu_prompt(question, shown, number))
    found = without_duplicates(PromptSet(f"mmlu-{shots}-shot", tuple(prompts)))
    return found if n is None else found.take(n, seed=seed)


def load_xstest(source: str | Path = XSTEST_HUB) -> dict[str, PromptSet]:
    """XSTest (Röttger et al. 2024): `{"safe": …, "unsafe": …}`; a safe prompt refused is over-refusal.

    `source` is a CSV with columns prompt, type and, where it has them, label, focus and id, or the hub id. A
    prompt's group is its focus, so a safe prompt and its unsafe twin stay together. Without a label, types
    that begin with "contrast" are unsafe.
    """
    hub = str(source) == XSTEST_HUB
    if hub:
        rows = [(0, row) for row in hub_table(XSTEST_HUB, None, "test").astype(str).to_dict("records")]
    else:
        rows = read_records(source)
    _need(rows, ("prompt", "type"), str(source))
    sides: dict[str, list[Prompt]] = {"safe": [], "unsafe": []}
    for line, row in rows:
        label = row.get("label") or ("unsafe" if row["type"].startswith("contrast") else "safe")
        if label not in sides:
            raise PromptError(f"{source}, line {line}: label {label!r}; it must be 'safe' or 'unsafe'")
        if not row["prompt"].strip():
            raise PromptError(f"{source}, line {line}: the prompt is empty")
        own = row.get("id") or str(len(sides["safe"]) + len(sides["unsafe"]) + 1)
        kind = row["type"].removeprefix("contrast_")
        group = row.get("focus") or f"{kind}-{own}"
        sides[label].append(Prompt(f"xstest-{own}", row["prompt"], f"{kind}: {group}", label))
    return {name: without_duplicates(PromptSet(f"xstest-{name}", tuple(found))) for name, found in sides.items()}


def load_jbb(harmful: str | Path | None = None, benign: str | Path | None = None) -> ContrastSet:
    """JBB-Behaviors (Chao et al. 2024), 100 harmful against 100 benign goals; two local CSV files or the hub."""
    if (harmful is None) != (benign is None):
        raise PromptError("give both files, harmful and benign, or neither for the hub")
    if harmful is None or benign is None:
        return load_contrast("jbb")
    return load_contrast("jbb", files={"positive": harmful, "negative": benign})


def _mmlu_prompt(question: _Question, examples: Iterable[_Question], number: int) -> Prompt:
    subject = question.subject.replace("_", " ")
    parts = [f"The following are multiple choice questions (with answers) about {subject}."]
    parts += [f"{_lettered(e)}\nAnswer: {LETTERS[e.answer]}" for e in examples]
    return Prompt(
        f"mmlu-{question.subject}-{number}",
        "\n\n".join([*parts, _lettered(question)]),
        question.subject,
        "choice",
        prefix="Answer:",
        choices=LETTERS,
        answer=question.answer,
    )


def _lettered(question: _Question) -> str:
    options = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, question.options))
    return f"{question.question.strip()}\n{options}"


def _questions(source: str | Path, split: str) -> list[_Question]:
    path = Path(source).expanduser()
    if str(source) == MMLU_HUB:
        table = hub_table(MMLU_HUB, "all", split).to_dict("records")
        return [_question(row, f"{MMLU_HUB}, row {i}") for i, row in enumerate(table)]
    if path.is_dir():
        files = sorted(path.glob(f"*_{split}.csv"))
        if not files:
            raise PromptError(f"no *_{split}.csv in {str(path)!r}; give the folder of MMLU's original files")
        return [q for file in files for q in _original(file, split)]
    if path.suffix == ".parquet":
        rows = read_table(path).to_dict("records")
        return [_question(row, f"{path}, row {i}") for i, row in enumerate(rows)]
    lines = read_cells(path)
    if lines and len(lines[0][1]) == 6 and "question" not in [cell.lower() for cell in lines[0][1]]:
        return _original(path, split)
    records = read_records(path)
    _need(records, _MMLU_COLUMNS, str(path))
    return [_question(row, f"{path}, line {line}") for line, row in records]


def _original(path: Path, split: str) -> list[_Question]:
    """A header-less file of one subject: question, four options, letter."""
    subject = path.stem.removesuffix(f"_{split}")
    found = []
    for line, cells in read_cells(path):
        if len(cells) != 6:
            raise PromptError(f"{path}, line {line}: {len(cells)} columns; MMLU's original files have 6 and no header")
        question, *options, answer = cells
        row = {"subject": subject, "question": question, "answer": answer, "choices": options}
        found.append(_question(row, f"{path}, line {line}"))
    return found


def _question(row: dict[str, Any], where: str) -> _Question:
    options = row["choices"] if "choices" in row else [row.get(f"choice{i}") for i in range(4)]
    options = tuple(str(option) for option in options) if options is not None else ()
    if len(options) != 4 or not all(option.strip() for option in options):
        raise PromptError(f"{where}: choices {list(options)}; a question needs four that are not empty")
    question, subject = str(row.get("question") or ""), str(row.get("subject") or "")
    if not question.strip() or not subject.strip():
        raise PromptError(f"{where}: the question or the subject is empty")
    given = str(row.get("answer")).strip()
    answer = LETTERS.index(given) if given in LETTERS else int(given) if given in ("0", "1", "2", "3") else None
    if answer is None:
        raise PromptError(f"{where}: answer {given!r}; it must be an index 0 to 3 or a letter A to D")
    return _Question(subject.removesuffix("_test"), question, options, answer)


def _need(rows: Sequence[tuple[int, dict[str, Any]]], columns: Sequence[str], source: str) -> None:
    have = set(rows[0][1]) if rows else set()
    missing = [name for name in columns if name not in have]
    if missing:
        raise PromptError(f"{source} lacks the columns {listed(missing)}; it has {listed(sorted(have), 20)}")


check_arguments(__name__, error=PromptError)
