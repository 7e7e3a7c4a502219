"""The log: one JSON object a line, and nothing of what a request held."""

import json
import logging
import logging.config
import sys

from gristmill.serving.logs import LOG_CONFIG, JsonLines


def line(message, *arguments, error=None, **extra):
    record = logging.getLogger("gristmill.x").makeRecord(
        "gristmill.x", logging.ERROR, __file__, 1, message, arguments, error, extra=extra
    )
    return JsonLines().format(record)


def test_a_line_is_an_object_whatever_it_says():
    text = line("two\nlines and %s", '"quotes"\n', status=422, key=None)
    assert "\n" not in text
    found = json.loads(text)
    assert (found["level"], found["logger"]) == ("error", "gristmill.x")
    assert found["message"] == 'two\nlines and "quotes"'
    assert found["status"] == 422
    assert "key" not in found


def fail_with(secret):
    raise ValueError(f"{secret} is no number")


def test_an_error_is_told_by_its_kind_and_place_not_by_its_words():
    try:
        fail_with("4111 1111 1111 1111")
    except ValueError:
        text = line("it failed", error=sys.exc_info())
    found = json.loads(text)
    assert found["error"] == "ValueError"
    assert "fail_with" in found["at"][-1]
    assert "4111" not in text


def test_the_configuration_is_one(capsys):
    before = {name: list(logging.getLogger(name).handlers) for name in LOG_CONFIG["loggers"]}
    try:
        logging.config.dictConfig(LOG_CONFIG)
        logging.getLogger("gristmill.requests").info("refused", extra={"status": 404})
        logging.getLogger("uvicorn.error").info("not told")
        try:
            fail_with("4111 1111 1111 1111")
        except ValueError:
            logging.getLogger("asyncio").exception("Task exception was never retrieved")
    finally:
        for name, handlers in before.items():
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = handlers, True
            logger.setLevel(logging.NOTSET)
    told, failed = capsys.readouterr().err.splitlines()
    assert json.loads(told)["status"] == 404
    assert json.loads(failed)["error"] == "ValueError"
    assert "4111" not in failed
