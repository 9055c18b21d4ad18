"""What the service counts, for Prometheus at `/metrics` and for people at `/metrics-summary`.

The histograms have the names of clip-retrieval's (clip_retrieval/clip_back.py), so that its
dashboards show both. The file exists as the one list of what is measured; each service has a
registry of its own.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]
BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
TIMES = {
    "full_knn_request_time": "from a request's first byte to its answer",
    "download_time": "a picture by its URL",
    "image_prepro_time": "decoding a picture",
    "text_clip_inference_time": "embedding a batch of texts",
    "image_clip_inference_time": "embedding a batch of pictures",
    "knn_index_time": "top k of a batch of queries",
    "dedup_time": "removals after the search: near duplicates, safe mode, filters",
    "metadata_get_time": "metadata and thumbnails",
}


class Metrics:
    """Histograms in seconds by name (TIMES), answers by status, queries that wait."""

    def __init__(self):
        self.registry = CollectorRegistry()
        self.times = {
            name: Histogram(name, text, registry=self.registry, buckets=BUCKETS)
            for name, text in TIMES.items()
        }
        self.answers = Counter(
            "answers", "answers by route and status", ["route", "status"], registry=self.registry
        )
        self.rows = Gauge("index_rows", "rows of the index", registry=self.registry)
        self.batch = Histogram(
            "batch_size", "queries per batch", registry=self.registry, buckets=(1, 2, 4, 8, 16, 32)
        )

    def time(self, name: str):
        """A context that measures."""
        return self.times[name].time()

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)

    def summary(self) -> str:
        """A table of counts and means, the most expensive step first."""
        found = [(name, *self._mean(name)) for name in TIMES]
        lines = [f"{'step':<28}{'calls':>8}{'mean ms':>10}  what"]
        for name, count, mean in sorted(found, key=lambda row: -row[2]):
            lines.append(f"{name:<28}{count:>8}{mean * 1000:>10.2f}  {TIMES[name]}")
        return "\n".join(lines) + "\n"

    def _mean(self, name: str) -> tuple[int, float]:
        samples = {s.name: s.value for s in self.times[name].collect()[0].samples if not s.labels}
        count = int(samples[f"{name}_count"])
        return count, samples[f"{name}_sum"] / count if count else 0.0
