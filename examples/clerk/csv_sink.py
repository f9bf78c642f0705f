"""
A sink that writes each operation of which it knows start and end as a line of CSV.
"""

import csv
import os

from harken.testing.sink_conformance import check_sink


class CsvSink:
    delivery = "worker"

    def __init__(self, path):
        self._file = open(path, "a", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file)

    def write(self, batch):
        for envelope in batch:
            if envelope.started is not None:
                outcome = envelope.outcome.value
                self._rows.writerow([envelope.id, envelope.resource, outcome, envelope.duration])

    def flush(self, timeout):
        self._file.flush()

    def close(self, timeout):
        self._file.close()


if __name__ == "__main__":
    check_sink(lambda: CsvSink(os.devnull))
    print("CsvSink conforms")
