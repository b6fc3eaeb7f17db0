#!/usr/bin/env python3
"""An invoicing consumer: prints every invoice line of reckon.statements once, as NDJSON (deploy/CONSUMERS.md says why so).

    python3 -m venv venv && venv/bin/pip install confluent-kafka grpcio-tools
    venv/bin/python deploy/consumer.py localhost:9092 invoicing.cursor >> lines.ndjson   # --once: stop at the end
"""
import argparse, importlib, json, os, pathlib, sys, tempfile
import grpc_tools
from confluent_kafka import Consumer, KafkaError, TopicPartition
from grpc_tools import protoc

options = argparse.ArgumentParser()
options.add_argument("bootstrap")
options.add_argument("cursor", type=pathlib.Path)
options.add_argument("--topic", default="reckon.statements")
options.add_argument("--once", action="store_true")
args = options.parse_args()

# The schema, compiled here and now; a build would do it beforehand.
proto = pathlib.Path(__file__).resolve().parent.parent / "proto"
with tempfile.TemporaryDirectory() as made:
    include = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
    command = ["protoc", f"-I{proto}", f"-I{include}", f"--python_out={made}", "reckon/v1/outputs.proto"]
    assert protoc.main(command) == 0, "the schema can't be compiled"
    sys.path.insert(0, made)
    outputs = importlib.import_module("reckon.v1.outputs_pb2")

consumer = Consumer({"bootstrap.servers": args.bootstrap, "group.id": "invoicing", "isolation.level": "read_committed",
                     "enable.auto.commit": False, "auto.offset.reset": "error", "enable.partition.eof": True})
# Ours, by partition: next offset, last sequence.
cursor = {int(p): at for p, at in json.loads(args.cursor.read_text()).items()} if args.cursor.exists() else {}
partitions = consumer.list_topics(args.topic, timeout=10).topics[args.topic].partitions
starts = {p: max(cursor.get(p, [0])[0], consumer.get_watermark_offsets(TopicPartition(args.topic, p))[0]) for p in partitions}
consumer.assign([TopicPartition(args.topic, p, offset) for p, offset in starts.items()])
ended = set()
while not (args.once and len(ended) == len(partitions)):
    message = consumer.poll(1.0)
    if message is None:
        continue
    partition = message.partition()
    if message.error():
        if message.error().code() != KafkaError._PARTITION_EOF:
            sys.exit(f"{args.topic} {partition}: {message.error()}")
        ended.add(partition)
        continue
    record = outputs.StatementRecord.FromString(message.value())
    have = cursor.get(partition, [0, 0])[1]
    if record.sequence != have + 1:
        sys.exit(f"{args.topic} {partition}: sequence {record.sequence} after {have}; nothing more was taken")
    closed = record.period_closed  # all that is invoiceable; empty in notices and control records
    for number, line in enumerate(closed.lines):
        print(json.dumps({"id": f"statements-{partition}-{record.sequence}-{number}", "account": closed.account_id,
                          "period": closed.period, "product": line.product, "meter": line.meter, "quantity": line.quantity,
                          "amount": line.amount, "currency": line.currency or closed.currency, "error": line.error,
                          "original_period": line.original_period}), flush=True)
    cursor[partition] = [message.offset() + 1, record.sequence]
    args.cursor.with_suffix(".new").write_text(json.dumps(cursor))
    args.cursor.with_suffix(".new").replace(args.cursor)
