"""The weight files that the authors released."""

from dataclasses import dataclass

_RELEASE = 'https://github.com/ChuanyangZheng/iFormer/releases/download/v0.9/'


@dataclass(frozen=True)
class Weights:
    """A weight file.

    Attributes:
        file: Its name.
        sha256: Reported by a third party, never verified by us. Defaults to None, where nobody did.
    """

    file: str
    sha256: str | None = None

    @property
    def url(self) -> str:
        """Where it is downloaded."""
        return _RELEASE + self.file


# Whole models, by the name of their config.
RELEASED = {
    'iformer_t_in1k': Weights(
        'iFormer_t.pth', '7cbd778e3604694eb1a0becbf2e6a22798586f6bb46610a5c22b39880efb967e'
    ),
    'iformer_s_in1k': Weights(
        'iFormer_s.pth', 'dba81d99d9b6491b18fccd022f795d2b43e31bcb75f7aeea59be37b00bc7d7a1'
    ),
    'iformer_m_in1k': Weights('iFormer_m.pth'),
    'iformer_l_in1k': Weights('iFormer_l.pth'),
    'iformer_h_in1k': Weights('iFormer_h.pth'),
    'iformer_m_distill_in1k': Weights('iFormer_m_distill.pth'),
    'iformer_l_distill_in1k': Weights('iFormer_l_distill.pth'),
    'iformer_l2_distill_in1k': Weights('iFormer_l2_distill.pth'),
    'maskrcnn_iformer_m_coco': Weights('iFormer_m_epoch_12.pth'),
    'maskrcnn_iformer_l_coco': Weights('iFormer_l_epoch_12.pth'),
    'maskrcnn_iformer_l2_coco': Weights('iFormer_l2_epoch_12.pth'),
    'fpn_iformer_m_ade20k': Weights('iFormer_m_iter_40000.pth'),
    'fpn_iformer_l_ade20k': Weights('iFormer_l_iter_40000.pth'),
    'fpn_iformer_l2_ade20k': Weights('iFormer_l2_iter_40000.pth'),
}
