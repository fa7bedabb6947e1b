_base_ = './iformer_m_in1k.py'

model = dict(
    backbone=dict(arch='h', drop_path_rate=0.6, layer_scale_init_value=1e-6), head=dict(in_channels=768)
)
# 64 GPUs x 128 images; the published accuracy is that of the averaged weights.
optim_wrapper = dict(optimizer=dict(lr=8e-3))
auto_scale_lr = dict(base_batch_size=8192)
custom_hooks = [
    dict(type='EMAHook', momentum=1e-4, update_buffers=True, priority='ABOVE_NORMAL'),
]
