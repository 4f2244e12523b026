"""Ask a running server what a product is.

    from client import Classifier

    with Classifier("localhost:8001", timeout_s=5, retry_for_s=30) as classifier:
        print(classifier.classify("Redwood belted dress", Path("photo.jpg")).prediction["color"])

AsyncClassifier is the same with `await`. What may come instead of an answer is a ClassifierError; client.errors
tells the kinds apart.
"""

from client.aio import AsyncClassifier
from client.classifier import Classifier
from client.errors import (
    ClassifierError,
    DeadlineExceeded,
    InvalidProduct,
    LabelSetChanged,
    Misconfigured,
    ServerBusy,
    ServerFailed,
    ServerUnavailable,
)
from client.protocol import Answer
from client.session import Tls

__all__ = [
    "Answer",
    "AsyncClassifier",
    "Classifier",
    "ClassifierError",
    "DeadlineExceeded",
    "InvalidProduct",
    "LabelSetChanged",
    "Misconfigured",
    "ServerBusy",
    "ServerFailed",
    "ServerUnavailable",
    "Tls",
]
