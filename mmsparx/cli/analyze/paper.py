"""The paper's figures of accuracy, throughput and memory, for columns beside measured ones.

Lou, Fu, Yu: SparX (AAAI 2025), Tables 4, 5, 15, 16 and 17. Throughput and memory are of one NVIDIA H800 with
224-trained models; in which precision, the paper does not say.
"""

from pathlib import Path

# The paper's names of models by ours: of shipped configs, and of models in timm's registry.
_NAMES = {
    **{f'sparx_mamba_{x}_in1k': f'SparX-Mamba-{x.upper()}' for x in 'tsb'},
    **{f'vmamba_{x}_in1k': f'VMamba-{x.upper()}' for x in 'tsb'},
    **{f'sparx_mamba_{size}': f'SparX-Mamba-{size[0].upper()}' for size in ('tiny', 'small', 'base')},
    **{f'vmamba_{size}': f'VMamba-{size[0].upper()}' for size in ('tiny', 'small', 'base')},
    **{f'convnext_{size}': f'ConvNeXt-{size[0].upper()}' for size in ('tiny', 'small', 'base')},
    **{f'swin_{size}_patch4_window7_224': f'Swin-{size[0].upper()}' for size in ('tiny', 'small', 'base')},
    'sparx_mamba_t_dgc_in1k': 'DGC-Mamba-T',
    'sparx_mamba_t_dsn_in1k': 'DSN-Mamba-T',
    'sparx_mamba_t_concat_in1k': 'Concat',
    'sparx_mamba_t_wo_gcca_in1k': 'w/o GCCA',
    'sparx_mamba_t_sca_in1k': 'SCA',
    'sparx_mamba_t_sra_in1k': 'SRA',
}

SIZES = (224, 384, 512, 640, 768, 1024)
# Table 15: GFLOPs at each of the sizes.
GFLOPS = {
    'ConvNeXt-T': (4.5, 13.1, 23.3, 36.5, 52.5, 93.3),
    'Swin-T': (4.5, 14.5, 26.6, 45.0, 70.7, 152.5),
    'VMamba-T': (4.9, 14.3, 25.4, 39.6, 57.1, 101.5),
    'SparX-Mamba-T': (5.2, 15.4, 27.4, 42.8, 61.7, 109.6),
}
# Tables 15 (T) and 17 (S and B, which has no 640): top-1 accuracy at each of the sizes, in per cent.
TOP1 = {
    'ConvNeXt-T': (82.1, 81.0, 78.0, 74.3, 69.5, 55.4),
    'Swin-T': (81.3, 80.7, 79.0, 76.6, 73.1, 61.9),
    'VMamba-T': (82.5, 82.5, 81.1, 79.3, 76.1, 62.3),
    'VMamba-S': (83.6, 83.8, 82.9, None, 80.3, 73.7),
    'VMamba-B': (83.9, 84.1, 83.3, None, 80.6, 74.8),
    'SparX-Mamba-T': (83.5, 84.0, 82.9, 81.5, 79.5, 71.8),
    'SparX-Mamba-S': (84.2, 84.8, 84.1, None, 81.1, 74.9),
    'SparX-Mamba-B': (84.5, 84.8, 83.9, None, 81.0, 75.7),
}

# Size and batch of Table 17.
CASES = ((224, 128), (384, 128), (512, 128), (768, 64), (1024, 32))
# Images per second and MB in each of them. The column of VMamba-S at 224 is the one of LocalVMamba-S as well, so one of
# the two is misprinted; SparX-Mamba-T is 1366 there, and 1370 in Tables 4 and 16.
THROUGHPUT = {
    'VMamba-T': ((1613, 6784), (584, 17246), (342, 29484), (147, 32980), (85, 29226)),
    'VMamba-S': ((1021, 6745), (367, 17207), (220, 29445), (93, 32941), (55, 29445)),
    'VMamba-B': ((753, 8703), (258, 22483), (151, 38695), (65, 22467), (38, 38695)),
    'SparX-Mamba-T': ((1366, 7066), (495, 18934), (298, 32562), (121, 36466), (65, 32338)),
    'SparX-Mamba-S': ((871, 7317), (313, 18603), (194, 31971), (78, 35569), (41, 31859)),
    'SparX-Mamba-B': ((635, 8807), (223, 21501), (138, 36929), (49, 21427), (29, 36981)),
}
# Tables 4, 5 and 16: images per second and MB (None where it is not printed) at 224, batch 128.
THROUGHPUT_AT_224 = {
    'ConvNeXt-T': (2359, None),
    'ConvNeXt-S': (1359, None),
    'ConvNeXt-B': (957, None),
    'Swin-T': (2416, None),
    'Swin-S': (1419, None),
    'Swin-B': (1006, None),
    'DGC-Mamba-T': (860, 7523),
    'DSN-Mamba-T': (830, 7641),
    'Concat': (1413, 6861),
    'w/o GCCA': (1425, 6853),
    'SCA': (1275, 12453),
    'SRA': (997, 9333),
}


def paper_name(name: str) -> str | None:
    """The paper's name of a model, by the name of its config or in timm; None if it has no such model."""
    short = Path(name).stem if name.endswith('.py') else name.partition('.')[0]
    return _NAMES.get(short)


def accuracy(name: str, size: int) -> tuple[float | None, float | None]:
    """(GFLOPs, top-1 in per cent) that the paper prints for a model at a size; None where it has none."""
    if size not in SIZES:
        return None, None
    found, i = paper_name(name), SIZES.index(size)
    return tuple(table[found][i] if found in table else None for table in (GFLOPS, TOP1))


def throughput(name: str, size: int, batch: int) -> tuple[int | None, int | None]:
    """(images per second, MB) that the paper prints for a model; None where it has none."""
    found = paper_name(name)
    if (size, batch) in CASES and found in THROUGHPUT:
        return THROUGHPUT[found][CASES.index((size, batch))]
    if (size, batch) == CASES[0]:
        return THROUGHPUT_AT_224.get(found, (None, None))
    return None, None
