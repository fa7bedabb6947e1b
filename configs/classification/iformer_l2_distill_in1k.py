_base_ = './iformer_m_distill_in1k.py'

model = dict(backbone=dict(arch='l2'), head=dict(in_channels=512))
# 450 epochs, unlike the other sizes.
max_epochs = 450
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=20, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs - 20,
        eta_min=1e-6,
        begin=20,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
