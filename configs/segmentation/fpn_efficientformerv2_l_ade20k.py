# Made from mmiformer/zoo/peers.py by tools/generate.py.
# EfficientFormerV2-L. timm's network and copy of the authors' weights, of 450 epochs with a teacher, drop
# path as theirs. The authors learn the biases of attention anew; here they are those of the weights, resized.
_base_ = './fpn_iformer_m_ade20k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmiformer.models.backbones.efficientformer.EfficientFormerFeatures',
        model_name='efficientformerv2_l',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.1,
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://huggingface.co/timm/efficientformerv2_l.snap_dist_in1k/resolve/main/model.safetensors',
        ),
    ),
    neck=dict(in_channels=[40, 80, 192, 384]),
)
