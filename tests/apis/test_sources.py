"""What can be predicted on, and reading it one by one."""

import weakref
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mmiformer.apis.inference import Predictor, predict_source
from mmiformer.apis.sources import Images, Video, open_source
from mmiformer.datasets import LoadCheckedImage
from mmiformer.tasks import TASKS
from mmiformer.utils.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    for name in ('b.JPG', 'sub/a.png', 'sub/b.JPG'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.full((8, 8, 3), 90, np.uint8))
    (tmp_path / 'notes.md').write_text('no image')
    (tmp_path / 'list.txt').write_text('sub/a.png\n\nb.JPG\nhttps://host/../x/c.png?d=1\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clip(tmp_path) -> Path:
    file = tmp_path / 'clip.mp4'
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*'mp4v'), 12, (32, 24))
    for number in range(9):
        writer.write(np.full((24, 32, 3), 20 * number, np.uint8))
    writer.release()
    return file


@pytest.mark.parametrize(
    ('source', 'names'),
    [
        ('.', ['b.JPG', 'sub/a.png', 'sub/b.JPG']),
        ('sub', ['a.png', 'b.JPG']),
        ('**/b.*', ['b.JPG', 'sub/b.JPG']),
        ('sub/a.png', ['a.png']),
        ('https://host/folder/x.png?size=2', ['x.png']),
    ],
)
def test_images_by_name(folder, source, names):
    found = open_source(source)
    assert isinstance(found, Images) and not found.live
    assert [found.name(frame.path) for frame in found] == names and found.count == len(names)


def test_list_is_relative_to_its_file(folder, monkeypatch):
    monkeypatch.chdir('/')
    found = open_source(str(folder / 'list.txt'))
    assert found.paths == [str(folder / 'sub/a.png'), str(folder / 'b.JPG'), 'https://host/../x/c.png?d=1']
    names = [found.name(path) for path in found.paths]
    assert len(set(names)) == 3 and not any('..' in name for name in names)


def test_video_is_read_frame_by_frame(clip):
    found = open_source(str(clip))
    assert isinstance(found, Video) and (found.count, found.rate, found.live) == (9, 12, False)
    means = {frame.index: frame.image.mean() for frame in found}
    assert list(means) == list(range(9)) and found.name(str(clip)) == 'clip.mp4'
    assert all(abs(mean - 20 * index) < 4 for index, mean in means.items())


@pytest.mark.parametrize(('stated', 'rate'), [(90000.0, 25), (float('nan'), 25), (0.0, 25), (59.94, 59.94)])
def test_rates_that_no_camera_has_are_not_taken(stated, rate, monkeypatch):
    camera = SimpleNamespace(isOpened=lambda: True, get=lambda key: stated if key == cv2.CAP_PROP_FPS else 0)
    monkeypatch.setattr('mmiformer.apis.sources.cv2.VideoCapture', lambda source: camera)
    assert open_source('rtsp://host/stream').rate == rate


def test_nothing_to_predict_on_is_an_error(folder, monkeypatch):
    (folder / 'empty').mkdir()
    (folder / 'empty.txt').touch()
    (folder / 'text.mp4').write_text('text')
    for source, words in (
        ('nowhere.jpg', 'nowhere.jpg: no such file or folder; name an image, folder, pattern'),
        ('empty', 'empty: has no images; expected files that end in .jpg'),
        ('*.bmp', 'has no images'),
        ('empty.txt', 'empty.txt: is empty'),
        ('text.mp4', 'text.mp4: OpenCV cannot read it as a video'),
    ):
        with pytest.raises(UserError) as error:
            open_source(source)
        assert words in str(error.value) and 'remove' not in str(error.value)
    monkeypatch.setenv('MMIFORMER_OFFLINE', '1')
    with pytest.raises(UserError, match='MMIFORMER_OFFLINE is set'):
        open_source('https://host/x.png')


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_address_of_an_image(folder):
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}'
        (frame,) = open_source(f'{address}/sub/a.png')
        assert (LoadCheckedImage()(dict(img_path=frame.path))['img'] == 90).all()
        with pytest.raises(UserError, match=r'nowhere.png: cannot be read \(.*404.*\); check the address'):
            LoadCheckedImage()(dict(img_path=f'{address}/nowhere.png'))
        server.shutdown()


class Mean(Predictor):
    """Finds one object, whose score is the brightness of the image."""

    task, meta = TASKS['det'], dict(classes=('thing',))

    def __init__(self) -> None:
        self.sizes, self.seen = [], []

    def load(self, path):
        image = cv2.imread(path)
        if image is None:
            raise UserError(path, 'broken', 'mend it')
        return image

    def __call__(self, images, score_thr=0.0):
        self.sizes.append(len(images))
        self.seen += [weakref.ref(image) for image in images]
        assert len({image.shape for image in images}) == 1
        scores = [np.array([s for s in [i.mean() / 255] if s >= score_thr]) for i in images]
        return [dict(boxes=np.zeros((len(s), 4)), labels=np.zeros(len(s), int), scores=s) for s in scores]


def test_frames_are_not_kept(clip):
    predictor = Mean()
    for result in predict_source(predictor, str(clip), batch=2, score_thr=0.5):
        assert len(result.scores) == (20 * result.frame / 255 > 0.5)
        assert sum(reference() is not None for reference in predictor.seen) <= 2
    assert predictor.sizes == [2, 2, 2, 2, 1]


def test_batches_have_one_size_and_broken_images_are_left_out(folder):
    cv2.imwrite('c.png', np.zeros((8, 9, 3), np.uint8))
    Path('a.png').write_text('text')
    predictor, faults = Mean(), []
    paths = [result.path for result in predict_source(predictor, '.', batch=8, faults=faults)]
    assert paths == ['b.JPG', 'c.png', 'sub/a.png', 'sub/b.JPG'] and predictor.sizes == [1, 1, 2]
    assert [str(fault) for fault in faults] == ['a.png: broken; mend it.']
    with pytest.raises(UserError, match='a.png: broken'):
        list(predict_source(predictor, '.'))
