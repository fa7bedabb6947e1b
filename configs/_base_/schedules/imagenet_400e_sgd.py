# In the manner of GhostNet; MoCoViT's own recipe was never published. lr 0.4 for a batch of 1024: GhostNet's
# paper. 400 epochs (iamhankai/ghostnet.pytorch#18), warm-up of 5 epochs and cosine (#3 there): its author.
# Momentum 0.9, weight decay 4e-5: those who reproduced it (#3).
max_epochs = 400
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.4, momentum=0.9, weight_decay=4e-5))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs - 5,
        begin=5,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=1024)
