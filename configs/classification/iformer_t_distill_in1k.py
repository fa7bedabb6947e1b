_base_ = './iformer_m_distill_in1k.py'

# Not published at this size: the recipe of M.
model = dict(backbone=dict(arch='t'), head=dict(in_channels=256))
