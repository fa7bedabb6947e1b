_base_ = './default_runtime.py'

default_scope = 'mmseg'
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=4000, save_best='mIoU'),
    visualization=dict(type='SegVisualizationHook'),
)
env_cfg = dict(cudnn_benchmark=True)  # Training crops have one size.
visualizer = dict(type='SegLocalVisualizer', vis_backends=_base_.vis_backends, name='visualizer', alpha=0.6)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=False)
tta_model = dict(type='SegTTAModel')
