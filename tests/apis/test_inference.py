"""An exported file in place of a model, and the painters of several predictors."""

import types

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmiformer.apis.inference import Predictor, PredictorModel, image_steps
from mmiformer.tasks import TASKS

PREDICTIONS = dict(
    det=dict(
        boxes=np.array([[1, 2, 3, 4]], np.float32),
        labels=np.array([1]),
        scores=np.array([0.5], np.float32),
        masks=np.ones((1, 5, 7), bool),
    ),
    seg=dict(label_map=np.ones((5, 7), np.int64)),
    cls=dict(probabilities=np.array([0.3, 0.7], np.float32)),
)
KINDS = dict(det='DetDataSample', seg='SegDataSample', cls='DataSample')


@pytest.mark.parametrize('name', list(PREDICTIONS))
def test_predictions_of_a_file_are_written_into_data_samples(name):
    task, given = TASKS[name], []
    structures = pytest.importorskip(f'{task.scope}.structures')

    def predict(images: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
        given.extend(images)
        return [PREDICTIONS[name]]

    predict.task = task
    sample = getattr(structures, KINDS[name])(metainfo=dict(img_id=9, ori_shape=(5, 7)))
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    (found,) = PredictorModel(predict).test_step(dict(inputs=[image], data_samples=[sample]))
    assert (given[0] == image.permute(1, 2, 0).numpy()).all() and found.img_id == 9
    for key, array in task.arrays(found).items():
        np.testing.assert_array_equal(array, PREDICTIONS[name][key])


def test_predictors_of_one_task_have_their_own_classes():
    pytest.importorskip('mmdet')
    own = types.SimpleNamespace(task=TASKS['det'], visualizer=TASKS['det'].visualizer)
    painters = []
    for classes in (('cat',), ('dog',)):
        own.meta = dict(classes=classes)
        painters.append(Predictor.painter(own, 0.5))
    assert [painter.visualizer.dataset_meta['classes'] for painter in painters] == [('cat',), ('dog',)]


def test_steps_of_a_wrapped_data_set():
    steps = [dict(type='LoadCheckedImage'), dict(type='mmseg.LoadAnnotations'), dict(type='PackInputs')]
    wrapped = dict(type='RepeatDataset', times=2, dataset=dict(type='Any', pipeline=steps))
    found = image_steps(Config(dict(test_dataloader=dict(dataset=wrapped))))
    assert [step.type for step in found] == ['LoadCheckedImage', 'PackInputs']
