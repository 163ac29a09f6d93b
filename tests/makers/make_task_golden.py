#!/usr/bin/env python3
"""Writes small parquet files in the layouts in which Hugging Face exports the tasks of models/examples: tests/data/tasks/.

Needs the package pyarrow. The rows are made up; names and types of the columns are those of the datasets' pages.
"""


import pyarrow as pa
import pyarrow.parquet as pq

from shared import DATA

OUT = DATA / "tasks"
TEXT, INT, INT32 = pa.string(), pa.int64(), pa.int32()
CHOICES = pa.struct([("label", pa.list_(TEXT)), ("text", pa.list_(TEXT))])
ANSWERS = pa.struct([("text", pa.list_(TEXT)), ("answer_start", pa.list_(INT32))])

SST2 = [("idx", INT32), ("sentence", TEXT), ("label", INT)]
AG_NEWS = [("text", TEXT), ("label", INT)]
MMLU = [("question", TEXT), ("subject", TEXT), ("choices", pa.list_(TEXT)), ("answer", INT)]
COMMONSENSE_QA = [("id", TEXT), ("question", TEXT), ("question_concept", TEXT), ("choices", CHOICES), ("answerKey", TEXT)]
SQUAD = [("id", TEXT), ("title", TEXT), ("context", TEXT), ("question", TEXT), ("answers", ANSWERS)]


def write(name, columns, rows):
    path = OUT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(columns)), path, compression="snappy")


def sst2(i):
    return {"idx": i, "sentence": f"{'a delight' if i % 2 else 'a bore'} from start to end {i} ", "label": i % 2}


def ag_news(i):
    return {"text": f"{['Summit', 'Match', 'Shares', 'Chip'][i % 4]} number {i} makes news", "label": i % 4}


def mmlu(subject):
    def row(i):
        question = f"What is {i} + 1 in {subject}?"
        return {"question": question, "subject": subject, "choices": [str(i), str(i + 1), "7000", "none"], "answer": 1}
    return row


def commonsense_qa(i):
    texts = ["bank", "library", "mall", "beach", "kitchen"]
    return {"id": f"q{i}", "question": f"Where would you put book {i}?", "question_concept": "book",
            "choices": {"label": list("ABCDE"), "text": texts}, "answerKey": "B"}


def squad(i):
    return {"id": f"s{i}", "title": "Rivers", "context": f"River {i} is {i} miles long.", "question": f"How long is river {i}?",
            "answers": {"text": [f"{i} miles", f"{i} miles long"], "answer_start": [11, 11]}}


def main():
    write("sst2/train.parquet", SST2, [sst2(i) for i in range(10)])
    write("sst2/validation.parquet", SST2, [sst2(i) for i in range(11, 13)])
    write("ag_news/train.parquet", AG_NEWS, [ag_news(i) for i in range(10)])
    write("ag_news/test.parquet", AG_NEWS, [ag_news(i) for i in range(11, 13)])
    for part, n in ("dev", 5), ("validation", 2), ("test", 1):
        write(f"mmlu/{part}.parquet", MMLU, [mmlu(s)(i) for s in ("anatomy", "virology") for i in range(n)])
    write("commonsense_qa/train.parquet", COMMONSENSE_QA, [commonsense_qa(i) for i in range(6)])
    write("commonsense_qa/validation.parquet", COMMONSENSE_QA, [commonsense_qa(7)])
    write("squad/train.parquet", SQUAD, [squad(i) for i in range(3)])
    write("squad/validation.parquet", SQUAD, [squad(7)])


main()
