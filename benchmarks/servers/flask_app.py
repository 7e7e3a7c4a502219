"""Flask as people write it: a frame, the model, an INSERT and a commit for each answer."""

import json
import os
import time
import uuid
from datetime import UTC, datetime

import psycopg
from flask import Flask, jsonify, request

from benchmarks.servers.model import load

INSERT = (
    "INSERT INTO gristmill.predictions (prediction_id, entity, features, probability, label, "
    "model_version, predicted_at, latency_ms) VALUES (%s, %s, %s, %s, %s, 'flask', %s, %s)"
)
app = Flask(__name__)
model = load()
connection = psycopg.connect(os.environ["BENCHMARK_DATABASE"])


@app.post("/predict")
def predict():
    started = time.perf_counter()
    asked = request.get_json()
    answer = model.answer(asked["features"])
    prediction_id = uuid.uuid4()
    connection.execute(
        INSERT,
        [
            prediction_id,
            str(asked["idx"]),
            json.dumps(asked["features"]),
            answer["probability"],
            answer["label"],
            datetime.now(UTC),
            (time.perf_counter() - started) * 1000,
        ],
    )
    connection.commit()
    return jsonify(answer | {"model_version": "flask", "prediction_id": str(prediction_id)})
