#!/usr/bin/env python3
"""An invoicing consumer: every invoice line of reckon.statements once in a file, as NDJSON (deploy/CONSUMERS.md says why so).

    python3 -m venv venv && venv/bin/pip install confluent-kafka grpcio-tools
    venv/bin/python deploy/consumer.py localhost:9092 lines.ndjson invoicing.cursor   # --once: stop at the end
"""
import argparse, json, os, sys
import grpc
from confluent_kafka import Consumer, KafkaError, TopicPartition
options = argparse.ArgumentParser()
for name in ("bootstrap", "lines", "cursor"):
    options.add_argument(name)
options.add_argument("--topic", default="reckon.statements")
options.add_argument("--once", action="store_true")
args = options.parse_args()
# The schema, compiled here and now; a build would do it beforehand.
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "proto"))
outputs = grpc.protos("reckon/v1/outputs.proto")
# Ours, in a file that is replaced at once: length of the lines, and by partition next offset and last sequence.
is_new = not os.path.exists(args.cursor)
cursor = {"bytes": 0, "partitions": {}} if is_new else json.load(open(args.cursor))
out, at, ended = open(args.lines, "ab"), cursor["partitions"], set()
def remember():
    out.flush()
    os.fsync(out.fileno())
    cursor["bytes"] = os.path.getsize(args.lines)
    with open(f"{args.cursor}.new", "w") as new:
        print(json.dumps(cursor), file=new, flush=True)
        os.fsync(new.fileno())
    os.replace(new.name, args.cursor)
if os.path.getsize(args.lines) < cursor["bytes"] or (is_new and os.path.getsize(args.lines)):
    sys.exit(f"{args.lines} isn't the file that {args.cursor} is about, or lines of it are lost")
out.truncate(cursor["bytes"])  # what was written and not remembered comes again
remember()
consumer = Consumer({"bootstrap.servers": args.bootstrap, "group.id": "invoicing", "isolation.level": "read_committed",
                     "enable.auto.commit": False, "auto.offset.reset": "error", "enable.partition.eof": True})
partitions = consumer.list_topics(args.topic, timeout=10).topics[args.topic].partitions
first = {p: consumer.get_watermark_offsets(TopicPartition(args.topic, p))[0] for p in partitions if str(p) not in at}
consumer.assign([TopicPartition(args.topic, p, first[p] if p in first else at[str(p)][0]) for p in partitions])
while not (args.once and len(ended) == len(partitions)):
    for message in (messages := consumer.consume(500, timeout=0.2)):
        partition = message.partition()
        if message.error():
            if message.error().code() != KafkaError._PARTITION_EOF:
                sys.exit(f"{args.topic} {partition}: {message.error()}")
            ended.add(partition)
            continue
        record, have = outputs.StatementRecord.FromString(message.value()), at.get(str(partition), [0, 0])[1]
        if record.sequence > have + 1:
            sys.exit(f"{args.topic} {partition}: sequence {record.sequence} after {have}; it and what follows was not taken")
        closed = record.period_closed  # all that is invoiceable; empty in notices and control records
        for number, line in enumerate(closed.lines if record.sequence > have else []):
            row = {name: getattr(line, name) for name in ("product", "meter", "quantity", "amount", "error", "original_period")}
            row |= {"id": f"statements/{partition}/{record.sequence}-{number}", "account": closed.account_id,
                    "period": closed.period, "currency": line.currency or closed.currency}
            out.write(json.dumps(row).encode() + b"\n")
        at[str(partition)] = [message.offset() + 1, max(record.sequence, have)]
    if messages:
        remember()
