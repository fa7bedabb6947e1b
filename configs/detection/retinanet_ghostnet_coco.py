_base_ = './retinanet_mocovit_coco.py'

# The baseline of MoCoViT, tapped after bottlenecks 5, 11 and 16; timm's weights.
model = dict(
    backbone=dict(
        arch='ghostnet',
        init_cfg=dict(
            checkpoint='https://huggingface.co/timm/ghostnet_100.in1k/resolve/main/model.safetensors'
        ),
    ),
)
