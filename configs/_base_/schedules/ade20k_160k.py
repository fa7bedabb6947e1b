# mmseg's schedule of UPerNet with Swin-T: AdamW 6e-5, weight decay 0.01, 1500 iterations of warm-up, then
# linearly to 0, 160k iterations, 8 GPUs x 2 images. Norms and biases do not decay; in mmseg only position
# parameters and names with `norm` do not, so that biases and the heads' BatchNorms (`bn`) do.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=1500, end=160000, by_epoch=False),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
