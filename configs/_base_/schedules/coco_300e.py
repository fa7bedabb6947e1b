# mmdet's schedule of RTMDet (configs/rtmdet of mmdet 3): AdamW 4e-3, weight decay 0.05 but none on norms and
# biases, 1000 iterations of warm-up, 300 epochs, flat until 150, then a cosine to 2e-4; weights are averaged.
# 8 GPUs x 32 images. A config adds the PipelineSwitchHook: the last 20 epochs do without mosaics.
max_epochs = 300
stage2_epochs = 20
base_lr = 0.004

train_cfg = dict(
    type='EpochBasedTrainLoop',
    max_epochs=max_epochs,
    val_interval=10,
    dynamic_intervals=[(max_epochs - stage2_epochs, 1)],
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=base_lr, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-5, by_epoch=False, begin=0, end=1000),
    dict(
        type='CosineAnnealingLR',
        eta_min=base_lr * 0.05,
        begin=max_epochs // 2,
        end=max_epochs,
        T_max=max_epochs // 2,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=256)
