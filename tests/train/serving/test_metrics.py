"""/metrics: the text format of Prometheus, with the engine's own numbers."""

from prometheus_client.parser import text_string_to_metric_families

from tests.train.serving.servers import serving, wait_until


def numbers(server):
    page = server.ask("GET", "/metrics")[2]
    return {(s.name, *s.labels.values()): s.value for f in text_string_to_metric_families(page) for s in f.samples}


def test_counts():
    with serving() as server:
        server.post("/v1/completions", prompt="abc", max_tokens=5, n=2)
        list(server.client().completions.create(model="tiny", prompt="a", max_tokens=3, stream=True))
        server.post("/v1/completions", prompt="abc", wrong=1)
        assert server.ask("GET", "/metrics")[1]["content-type"].startswith("text/plain; version=")
        wait_until(lambda: numbers(server)["cairn_request_seconds_count",] == 2)
        found = numbers(server)
        assert found["cairn_requests_total", "/v1/completions", "200"] == 2
        assert found["cairn_requests_total", "/v1/completions", "400"] == 1
        assert found["cairn_prompt_tokens_total",] == 4 + 2
        assert found["cairn_generated_tokens_total",] == 10 + 3
        assert found["cairn_time_to_first_token_seconds_count",] == 2
        assert found["cairn_unfinished_texts",] == 0
        assert found["cairn_engine_steps",] == server.engine.statistics.steps
        assert found["cairn_engine_running",] == 0
