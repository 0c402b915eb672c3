"""What a server counts, on a clock of numbers."""

import re

from verbot.deploy.metrics import Metrics

SAMPLE = re.compile(r'^[a-z_]+(\{([a-z]+="([^"\\]|\\.)*",?)*\})? -?[0-9.e+-]+$')


def filled():
    now = [100.0]
    metrics = Metrics(lambda: now[0])
    now[0] += 20
    for number in range(10):
        metrics.request("verbot", 0.002 * (number + 1))
    metrics.request("openpi", 0.3, "SpecError")
    metrics.batch(3, 0.004)
    metrics.batch(5, 0.006)
    metrics.moved("verbot", 100, 20)
    metrics.connected("verbot", 1)
    metrics.refused("token")
    return metrics, now


def test_the_text_is_prometheus():
    metrics, _ = filled()
    text = metrics.text(busy=2, about={"robot": 'a "b"\\c', "identity": ""})
    lines = text.splitlines()
    assert text.endswith("\n") and all(line.startswith("# ") or SAMPLE.match(line) for line in lines)
    for line in (
        'verbot_requests_total{protocol="verbot"} 10',
        'verbot_errors_total{protocol="openpi",kind="SpecError"} 1',
        'verbot_request_seconds_bucket{protocol="verbot",le="0.01"} 5',
        'verbot_request_seconds_bucket{protocol="verbot",le="+Inf"} 10',
        'verbot_request_seconds_count{protocol="verbot"} 10',
        'verbot_batch_observations_bucket{le="4"} 1',
        "verbot_batch_observations_sum 8.000000",
        'verbot_message_bytes_total{protocol="verbot",direction="received"} 100',
        'verbot_clients{protocol="verbot"} 1',
        'verbot_refused_total{reason="busy"} 2',
        'verbot_policy_info{robot="a \\"b\\"\\\\c",identity=""} 1',
    ):
        assert line in lines
    counted = [int(line.split()[-1]) for line in lines if line.startswith('verbot_request_seconds_bucket{protocol="verbot"')]
    assert counted == sorted(counted), "buckets are cumulative"
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


def test_the_load_is_that_of_the_last_seconds():
    metrics, now = filled()
    load = metrics.load(busy=1)
    assert (load.clients, load.requests, load.errors, load.refused, load.batch) == (1, 11, 1, 2, 4.0)
    assert load.rate_hz == 1.1 and 11 < load.p50_ms < 13 and 250 < load.p99_ms <= 300
    assert load.line() == (
        "1 client, 1.1 requests/s, p50 12.0 ms, p99 272.0 ms, batches of 4.0; 11 requests, 1 errors, 2 refused"
    )
    now[0] += 60
    load = metrics.load()
    assert (load.rate_hz, load.p50_ms, load.batch, load.requests) == (0.0, 0.0, 0.0, 11)
