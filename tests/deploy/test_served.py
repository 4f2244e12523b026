"""A real server over an exported bundle, asked through the client. Rows of shared/TEST_MATRIX.md by name."""

from __future__ import annotations

import io
import json
import re
import shutil
import struct
import time
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from server_process import ServerProcess
from tritonclient.utils import InferenceServerException

from client import Answer, Classifier, ClassifierError
from cma_clip.files import file_sha256
from model.bundle import load_bundle
from model.config import BundleConfig
from serve.stamp import EngineStamp

COLOR_COUNT = 'cma_clip_text_share_count{task="color"}'
GAVE_UP = r"ended with (1|-11):"  # 2.51 now and then crashes while it unloads what it could not load
HANDED_OVER_S = 2.0  # steps hand their counts over once a second
TOLERANCE = 1e-5  # one product alone and within a batch: the CPU's sums run in another order


@pytest.fixture(scope="module")
def classifier(server):
    with Classifier(server.url, timeout_s=30) as classifier:
        yield classifier


@pytest.fixture(scope="module")
def raw(server):
    """tritonclient itself, for requests that the client would never send."""
    with triton.InferenceServerClient(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def tasks(bundle_dir):
    return BundleConfig.read(Path(bundle_dir) / "config.json").tasks


def refusal(classifier: Classifier, title: str | bytes, image: bytes | None) -> str:
    """The message of a refused product; it must be the caller's fault and give nothing of the server away."""
    with pytest.raises(ClassifierError) as caught:
        classifier.classify(title, image)
    assert caught.value.code == "INVALID_ARGUMENT", caught.value
    assert "Traceback" not in caught.value.message and ".py" not in caught.value.message
    return caught.value.message


def assert_same(answer: Answer | ClassifierError, other: Answer) -> None:
    assert isinstance(answer, Answer), answer
    np.testing.assert_allclose(answer.probabilities, other.probabilities, atol=TOLERANCE)
    np.testing.assert_allclose(answer.text_share, other.text_share, atol=TOLERANCE)


def tensor(name: str, array: np.ndarray, datatype: str = "BYTES") -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def column(*rows: bytes) -> np.ndarray:
    return np.array([[row] for row in rows], dtype=object)


def saved(format: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, format)
    return buffer.getvalue()


def test_the_three_outputs_agree(classifier, products, tasks):
    for title, image in products:
        answer = classifier.classify(title, image)
        assert list(answer.prediction) == [task.name for task in tasks]
        assert answer.text_share.shape == (len(tasks),)
        for (task, scores), share in zip(tasks.split(answer.probabilities), answer.text_share, strict=True):
            told = answer.prediction[task.name]
            assert told["text_share"] == pytest.approx(share, abs=1e-6)
            assert told["top"][0] == [task.labels[scores.argmax()], pytest.approx(scores.max(), abs=1e-6)]
            assert told["labels"] == [told["label"]] == [told["top"][0][0]] and told["scores"] == [told["score"]]
            assert scores.sum() == pytest.approx(1, abs=1e-5)
        assert answer.probabilities.shape == (sum(len(task.labels) for task in tasks),)


@pytest.mark.parametrize("title", ["", "  \t "])
def test_P1_T1_image_only(classifier, products, title):
    answer = classifier.classify(title, products[0][1])
    assert not answer.text_share.any()
    assert {told["modality"] for told in answer.prediction.values()} == {"image_only"}


@pytest.mark.parametrize("image", [None, b""])
def test_P1_I1_title_only(classifier, products, image):
    answer = classifier.classify(products[0][0], image)
    assert (answer.text_share == 1).all()
    assert {told["modality"] for told in answer.prediction.values()} == {"title_only"}


@pytest.mark.parametrize("title", ["", " "])
def test_P1_neither_is_refused(classifier, title):
    assert refusal(classifier, title, b"").startswith("NO_MODALITY: ")


@pytest.mark.parametrize("image", [b"<html>not found</html>", b"<svg xmlns=''/>", bytes(range(255, 155, -1))])
def test_I2_no_picture(classifier, image):
    assert refusal(classifier, "red dress", image).startswith("IMG_UNDECODABLE: ")


@pytest.mark.parametrize("cut", [20, 0.5, -2], ids=["header", "half", "last_bytes"])
def test_I3_P6_truncated_jpeg_fails_alone(classifier, products, cut):
    """In the middle of a concurrent batch; its batch-mates answer as they do alone."""
    jpeg = products[0][1]
    end = int(len(jpeg) * cut) if isinstance(cut, float) else cut
    solo = [classifier.classify(title, image) for title, image in products]
    mixed = [*products, ("cut", jpeg[:end]), *products]
    answers = list(classifier.classify_many(mixed, in_flight=64))
    bad = answers.pop(len(products))
    assert isinstance(bad, ClassifierError) and bad.code == "INVALID_ARGUMENT"
    assert bad.message.startswith("IMG_TRUNCATED: ")
    for answer, alone in zip(answers, solo * 2, strict=True):
        assert_same(answer, alone)


@pytest.mark.parametrize("image", [saved("TIFF"), saved("PDF"), saved("ICO")], ids=["TIFF", "PDF", "ICO"])
def test_I4_format_not_allowed(classifier, image):
    assert refusal(classifier, "", image).startswith("IMG_FORMAT_NOT_ALLOWED: ")


def test_I5_png_bomb(classifier):
    bomb = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, "PNG")
    assert refusal(classifier, "", bomb.getvalue()).startswith("IMG_TOO_MANY_PIXELS: ")


@pytest.mark.alone
def test_I6_more_pixels_than_pillow_itself_allows(classifier):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    picture = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(100))) + png_chunk(b"IEND", b"")
    started = time.monotonic()
    assert refusal(classifier, "", picture).startswith("IMG_TOO_MANY_PIXELS: ")
    assert time.monotonic() - started < 5


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@pytest.mark.parametrize("color", ["black", "white"])
def test_I15_flat_pictures(classifier, tasks, color):
    picture = io.BytesIO()
    Image.new("RGB", (300, 200), color).save(picture, "JPEG")
    answer = classifier.classify("", picture.getvalue())
    assert np.isfinite(answer.probabilities).all()
    assert answer.probabilities.sum() == pytest.approx(len(tasks), abs=1e-4)


def test_I7_too_many_bytes(classifier):
    assert refusal(classifier, "", b"\xff\xd8" + bytes(20_000_000)).startswith("IMG_TOO_MANY_BYTES: ")


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (2, 2)])
def test_I14_tiny_pictures(classifier, size):
    picture = io.BytesIO()
    Image.new("RGB", size, "blue").save(picture, "PNG")
    assert np.isfinite(classifier.classify("", picture.getvalue()).probabilities).all()


def test_T2_long_title(classifier):
    assert classifier.classify("red dress " * 10_000).prediction
    assert refusal(classifier, "x" * 140_000, None).startswith("TXT_TOO_LONG: ")


@pytest.mark.parametrize("title", [b"\xff\xfe", "cut \ud83d"])
def test_T4_invalid_utf8(classifier, products, title):
    assert refusal(classifier, title, products[0][1]).startswith("TXT_INVALID_UTF8: ")


def test_titles_of_all_lengths_share_a_batch(classifier):
    titles = [("red " * words, None) for words in (1, 15, 30, 45, 90)] * 4
    for (title, _), answer in zip(titles, classifier.classify_many(titles), strict=True):
        assert_same(answer, classifier.classify(title))


def test_F12_an_answer_names_its_label_set_and_model_version(classifier, tasks, products):
    answer = classifier.classify(*products[0])
    assert (answer.label_set, answer.model_version) == (tasks.label_set_hash, "1")


@pytest.mark.alone
def test_metrics_count_refusals_labels_and_shares(server, classifier, products):
    time.sleep(HANDED_OVER_S)
    before = metrics(server)
    answers = list(classifier.classify_many(products))
    refusal(classifier, "red dress", b"<html>")
    time.sleep(HANDED_OVER_S)
    now = metrics(server)
    grown = {name: value - before.get(name, 0) for name, value in now.items()}
    assert grown[COLOR_COUNT] == len(products) and grown['cma_clip_refusals_total{code="IMG_UNDECODABLE"}'] == 1
    share = sum(answer.prediction["color"]["text_share"] for answer in answers)
    assert grown['cma_clip_text_share_sum{task="color"}'] == pytest.approx(share, abs=1e-3)
    labels = [value for name, value in grown.items() if name.startswith("cma_clip_answers_total") and "color" in name]
    assert sum(labels) == len(products)


def metrics(server) -> dict[str, float]:
    page = urllib.request.urlopen(server.metrics_url).read().decode()
    lines = (line.rsplit(" ", 1) for line in page.splitlines() if line.startswith("cma_clip_"))
    return {name: float(value) for name, value in lines}


def test_a_request_of_several_rows(raw, classifier, products):
    titles, images = zip(*products[:3], strict=True)
    inputs = [
        tensor("TITLE", column(*(title.encode() for title in titles))),
        tensor("IMAGE", column(*images)),
    ]
    result = raw.infer("cma_clip", inputs)
    for row, (title, image) in enumerate(products[:3]):
        alone = classifier.classify(title, image)
        assert list(json.loads(result.as_numpy("PREDICTION")[row, 0])) == list(alone.prediction)
        np.testing.assert_allclose(result.as_numpy("PROBABILITIES")[row], alone.probabilities, atol=TOLERANCE)


TITLE, IMAGE = tensor("TITLE", column(b"red")), tensor("IMAGE", column(b""))


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ([TITLE, IMAGE, tensor("PRICE", column(b"7"))], "PRICE"),
        ([TITLE], "IMAGE"),
        ([TITLE, tensor("IMAGE", np.zeros((1, 1), np.uint8), "UINT8")], "IMAGE"),
        ([TITLE, tensor("IMAGE", np.array([[b"", b""]], dtype=object))], "IMAGE"),
    ],
    ids=["name", "missing", "dtype", "shape"],
)
def test_P2_a_wrong_tensor_is_named(raw, inputs, named):
    with pytest.raises(InferenceServerException, match=named) as caught:
        raw.infer("cma_clip", inputs)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_P2_an_unknown_output_is_named(raw):
    with pytest.raises(InferenceServerException, match="COLOUR") as caught:
        raw.infer("cma_clip", [TITLE, IMAGE], outputs=[triton.InferRequestedOutput("COLOUR")])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize("rows", [0, 65])
def test_P3_rows_beyond_the_limits(raw, rows):
    empty = np.full((rows, 1), b"red", dtype=object)
    with pytest.raises(InferenceServerException) as caught:
        raw.infer("cma_clip", [tensor("TITLE", empty), tensor("IMAGE", empty)])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize(("model", "version"), [("cma_clop", ""), ("cma_clip", "7")])
def test_P4_unknown_model_or_version(raw, model, version):
    with pytest.raises(InferenceServerException, match=model) as caught:
        raw.infer(model, [TITLE, IMAGE], model_version=version)
    assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_refused_requests_leave_nothing_behind(server, products, tmp_path):
    """A request that Triton never ends would hold up the shutdown."""
    other = ServerProcess(server.repository, tmp_path / "log")
    with other, Classifier(other.url, timeout_s=30) as classifier:
        bad = [(b"\xff", None), ("", None), ("x", b"<html>"), (b"\xff", products[0][1])] * 5
        errors = list(classifier.classify_many(bad))
    assert [error.code for error in errors] == ["INVALID_ARGUMENT"] * len(bad)
    assert other.process.returncode == 0
    assert not re.search(r"has \d+ in-flight inferences", other.log_path.read_text())


def test_F9_label_count_of_another_bundle(server, tmp_path):
    repository = shutil.copytree(server.repository, tmp_path / "deploy")
    bundle = BundleConfig.read(repository / "bundle.json")
    width = sum(len(task.labels) for task in bundle.tasks)
    bundle.tasks[0].labels.append("one more")
    bundle.tasks[0].acceptance.thresholds.append(None)
    (repository / "bundle.json").write_text(bundle.model_dump_json())
    engine = repository / "engine/1/model.onnx"
    sha256 = file_sha256(repository / "bundle.json")
    EngineStamp.read(engine).model_copy(update={"bundle_sha256": sha256}).write(engine)
    with pytest.raises(RuntimeError, match=GAVE_UP):
        ServerProcess(repository, tmp_path / "log").start()
    log = (tmp_path / "log").read_text()
    assert f"logits is {width} wide, bundle.json's tasks need {width + 1}" in log


def test_F11_not_ready_before_the_warm_up_has_passed(server, tmp_path):
    """An image that does not decode in the warm-up: the server ends before it is ever ready."""
    repository = shutil.copytree(server.repository, tmp_path / "deploy")
    image = repository / "preprocess/warmup/image"
    image.write_bytes(image.read_bytes()[:-2] + bytes(2))
    said: list[str] = []
    for _ in range(8):  # 2.51 may crash as it gives up, before it has said why
        with pytest.raises(RuntimeError, match=GAVE_UP):
            ServerProcess(repository, tmp_path / "log").start()
        said.append((tmp_path / "log").read_text())
        if re.search(r"warmup sample .product.: IMG_TRUNCATED", said[-1]):
            return
    pytest.fail("\n".join(said))


def test_F9_another_tokenizer_of_the_same_size(server, tmp_path):
    repository = shutil.copytree(server.repository, tmp_path / "deploy")
    tokenizer = json.loads((repository / "tokenizer.json").read_text())
    merges = tokenizer["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    expected = file_sha256(repository / "tokenizer.json")
    (repository / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(RuntimeError, match=GAVE_UP):
        ServerProcess(repository, tmp_path / "log").start()
    found = file_sha256(repository / "tokenizer.json")
    assert f"its sha256 is {found}, the network was trained with {expected}" in (tmp_path / "log").read_text()


def test_F7_no_bundle(server, tmp_path):
    repository = shutil.copytree(server.repository, tmp_path / "deploy", ignore=shutil.ignore_patterns("bundle.json"))
    with pytest.raises(RuntimeError, match=r"ended with 1:\ntritonserver: .*bundle.json: no such file"):
        ServerProcess(repository, tmp_path / "log").start()


def test_served_answers_equal_the_in_process_bundle(classifier, bundle_dir, products):
    mixed = [*products, (products[0][0], b""), ("", products[1][1])]
    expected = load_bundle(Path(bundle_dir)).classify(mixed)
    for answer, theirs in zip(classifier.classify_many(mixed), expected, strict=True):
        assert isinstance(answer, Answer), answer
        for task, ours in answer.prediction.items():
            for key in ("label", "modality", "accepted"):
                assert ours[key] == theirs[task][key], (task, key)
            assert ours["score"] == pytest.approx(theirs[task]["score"], abs=1e-5)
            assert ours["text_share"] == pytest.approx(theirs[task]["text_share"], abs=1e-5)
            assert [name for name, _ in ours["top"]] == [name for name, _ in theirs[task]["top"]]
