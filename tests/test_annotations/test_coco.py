"""Every kind of fault in an annotation file, by name, and files without faults; no mask is decoded."""

import json
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
from helpers.annotations import INF, NAN, SIZE, clean, compressed, random_mask, write

from mmsparx.annotations import coco, coco_faults, masks
from mmsparx.annotations.coco import check_coco
from mmsparx.annotations.findings import Kind

PIXELS = SIZE[0] * SIZE[1]


def set_in(part, index=1, **values):
    """A function that changes values of one entry; None removes a key."""

    def change(data):
        for key, value in values.items():
            if value is REMOVED:
                del data[part][index][key]
            else:
                data[part][index][key] = value

    return change


REMOVED = object()


def annotation(**values):
    return set_in('annotations', **values)


def image(**values):
    return set_in('images', **values)


def category(**values):
    return set_in('categories', **values)


def mask(value):
    return annotation(segmentation=value)


def rle(counts, size=SIZE):
    return mask(dict(size=size, counts=counts))


FAULTS = [
    # Images.
    (image(id=REMOVED), coco_faults.IMAGE_ID),
    (image(id='2'), coco_faults.IMAGE_ID),
    (image(id=2.0), coco_faults.IMAGE_ID),
    (image(id=True), coco_faults.IMAGE_ID),
    (image(id=[2]), coco_faults.IMAGE_ID),
    (image(id=1), coco_faults.IMAGE_ID_TWICE),
    (image(file_name=REMOVED), coco_faults.FILE_NAME),
    (image(file_name=''), coco_faults.FILE_NAME),
    (image(file_name=7), coco_faults.FILE_NAME),
    (image(file_name='1.png'), coco_faults.FILE_NAME_TWICE),
    (image(width=REMOVED), coco_faults.IMAGE_SIZE),
    (image(height=REMOVED), coco_faults.IMAGE_SIZE),
    (image(height=0), coco_faults.IMAGE_SIZE),
    (image(height=-48), coco_faults.IMAGE_SIZE),
    (image(width=NAN), coco_faults.IMAGE_SIZE),
    (image(width=64.0), coco_faults.IMAGE_SIZE),
    (image(width='64'), coco_faults.IMAGE_SIZE),
    (image(width=None), coco_faults.IMAGE_SIZE),
    (image(width=10**6, height=10**6), coco_faults.IMAGE_TOO_LARGE),
    (image(width=10**400), coco_faults.IMAGE_TOO_LARGE),
    (image(width=1, height=10000), coco_faults.IMAGE_TOO_SLENDER),
    (image(width=10000, height=1), coco_faults.IMAGE_TOO_SLENDER),
    (lambda data: data['images'].append('5.png'), coco_faults.NOT_AN_OBJECT),
    (lambda data: data.update(images=[], annotations=[]), coco_faults.NO_IMAGES),
    # Categories.
    (category(id=REMOVED), coco_faults.CATEGORY_ID),
    (category(id='2'), coco_faults.CATEGORY_ID),
    (category(id=1), coco_faults.CATEGORY_ID_TWICE),
    (category(name=REMOVED), coco_faults.CATEGORY_NAME),
    (category(name=3), coco_faults.CATEGORY_NAME),
    (category(name=['dog']), coco_faults.CATEGORY_NAME),
    (category(name='cat'), coco_faults.CATEGORY_NAME_TWICE),
    (lambda data: data['categories'].append(dict(id=7, name='cow')), coco_faults.UNUSED_CATEGORY),
    # Annotations.
    (annotation(id=REMOVED), coco_faults.ANNOTATION_ID),
    (annotation(id='2'), coco_faults.ANNOTATION_ID),
    (annotation(id=None), coco_faults.ANNOTATION_ID),
    (annotation(id={}), coco_faults.ANNOTATION_ID),
    (annotation(id=1), coco_faults.ANNOTATION_ID_TWICE),
    (annotation(id=0), coco_faults.ANNOTATION_ID_0),
    (annotation(image_id=REMOVED), coco_faults.ANNOTATION_IMAGE),
    (annotation(image_id='2'), coco_faults.ANNOTATION_IMAGE),
    (annotation(image_id=[2]), coco_faults.ANNOTATION_IMAGE),
    (annotation(image_id=99), coco_faults.UNLISTED_IMAGE),
    (annotation(category_id=REMOVED), coco_faults.ANNOTATION_CATEGORY),
    (annotation(category_id=0), coco_faults.ANNOTATION_CATEGORY),
    (annotation(category_id=3), coco_faults.ANNOTATION_CATEGORY),
    (annotation(category_id='1'), coco_faults.ANNOTATION_CATEGORY),
    (annotation(category_id='dog'), coco_faults.ANNOTATION_CATEGORY),
    (annotation(category_id=1.5), coco_faults.ANNOTATION_CATEGORY),
    (annotation(category_id=True), coco_faults.ANNOTATION_CATEGORY),
    (lambda data: data['annotations'].append(None), coco_faults.NOT_AN_OBJECT),
    (annotation(iscrowd=REMOVED), coco_faults.CROWD),
    (annotation(iscrowd=None), coco_faults.CROWD),
    (annotation(iscrowd=2), coco_faults.CROWD),
    (annotation(iscrowd='0'), coco_faults.CROWD),
    (annotation(iscrowd=1), coco_faults.CROWDS_ONLY),
    (annotation(area=REMOVED), coco_faults.AREA),
    (annotation(area=NAN), coco_faults.AREA),
    (annotation(area=-1), coco_faults.AREA),
    (annotation(area='200'), coco_faults.AREA),
    (annotation(area=0), coco_faults.AREA_0),
    (annotation(area=2000), coco_faults.AREA_TOO_LARGE),
    # Boxes.
    (annotation(bbox=REMOVED), coco_faults.BOX),
    (annotation(bbox=None), coco_faults.BOX),
    (annotation(bbox=[]), coco_faults.BOX),
    (annotation(bbox=[4, 5, 20]), coco_faults.BOX),
    (annotation(bbox=[4, 5, 20, 10, 1]), coco_faults.BOX),
    (annotation(bbox=[[4, 5], [20, 10]]), coco_faults.BOX),
    (annotation(bbox={'x': 4, 'y': 5, 'w': 20, 'h': 10}), coco_faults.BOX),
    (annotation(bbox='4 5 20 10'), coco_faults.BOX),
    (annotation(bbox=['4', '5', '20', '10']), coco_faults.BOX),
    (annotation(bbox=[4, 5, None, 10]), coco_faults.BOX),
    (annotation(bbox=[4, 5, NAN, 10]), coco_faults.BOX),
    (annotation(bbox=[NAN, 5, 20, 10]), coco_faults.BOX),
    (annotation(bbox=[4, 5, INF, 10]), coco_faults.BOX),
    (annotation(bbox=[-INF, 5, INF, 10]), coco_faults.BOX),
    (annotation(bbox=[4.5, 5, 10**400, 10]), coco_faults.BOX),
    (annotation(bbox=[24, 5, -20, 10]), coco_faults.NEGATIVE_BOX),
    (annotation(bbox=[4, 15, 20, -10]), coco_faults.NEGATIVE_BOX),
    (annotation(bbox=[4, 5, 1e9, 10]), coco_faults.FAR_BOX),
    (annotation(bbox=[-1e5, 5, 20, 10]), coco_faults.FAR_BOX),
    (annotation(bbox=[4, 5, 20, 10**400]), coco_faults.FAR_BOX),
    (annotation(bbox=[4, 5, 0, 0]), coco_faults.EMPTY_BOX),
    (annotation(bbox=[0.1, 0.1, 0.3, 0.2]), coco_faults.EMPTY_BOX),
    (annotation(bbox=[70, 5, 20, 10]), coco_faults.BOX_ELSEWHERE),
    (annotation(bbox=[-30, 5, 20, 10]), coco_faults.BOX_ELSEWHERE),
    (annotation(bbox=[4, 5, 100, 10]), coco_faults.BOX_OUTSIDE),
    (annotation(bbox=[-5, 5, 20, 10]), coco_faults.BOX_OUTSIDE),
    (annotation(bbox=[40, 30, 20, 10]), coco_faults.BOX_AND_MASK),
    # Polygons.
    (annotation(segmentation=REMOVED), masks.NO_MASK),
    (mask(None), masks.NO_MASK),
    (mask([]), masks.NO_MASK),
    (mask([4, 5, 24, 5, 24, 15]), masks.NO_POLYGONS),
    (mask([[[4, 5], [24, 5], [24, 15]]]), masks.NO_POLYGONS),
    (mask([{'x': 4, 'y': 5}]), masks.NO_POLYGONS),
    (mask('4 5 24 5 24 15'), masks.NO_POLYGONS),
    (mask([None]), masks.NO_POLYGONS),
    (mask(0), masks.NO_POLYGONS),
    (mask([[]]), masks.FEW_POINTS),
    (mask([[4, 5, 24, 5]]), masks.FEW_POINTS),
    (mask([[4, 5, 24, 5, 24, 15], [4, 5]]), masks.FEW_POINTS),
    (mask([[4, 5, 24, 5, 24, 15, 4]]), masks.ODD_COORDINATES),
    (mask([[4, 5, 24]]), masks.ODD_COORDINATES),
    (mask([[4, 5, 24, 5, 24, NAN]]), masks.NOT_FINITE),
    (mask([[4, 5, 24, 5, INF, 15]]), masks.NOT_FINITE),
    (mask([['4', '5', '24', '5', '24', '15']]), masks.NOT_FINITE),
    (mask([[4, 5, 24, None, 24, 15]]), masks.NOT_FINITE),
    (mask([[4, 5, 24, 5, 1e9, 15]]), masks.FAR_POLYGON),
    (mask([[4, -1e5, 24, 5, 24, 15]]), masks.FAR_POLYGON),
    (mask([[4, 5, 24, 5, 10**400, 15]]), masks.FAR_POLYGON),
    (mask([[4, 5, 24, 5, 24, 70]]), masks.OUTSIDE_POLYGON),
    (mask([[4, 5, 24, 5, 14, 5]]), masks.FLAT_POLYGON),
    (mask([[4, 5, 24, 5, 24, 15], [7, 7, 7, 7, 7, 7]]), masks.FLAT_POLYGON),
    # Run-length encodings.
    (mask({}), masks.RLE_KEYS),
    (mask({'size': SIZE}), masks.RLE_KEYS),
    (mask({'counts': [PIXELS]}), masks.RLE_KEYS),
    (rle([PIXELS], SIZE[::-1]), masks.RLE_SIZE),
    (rle([4], [2, 2]), masks.RLE_SIZE),
    (rle([PIXELS], [48]), masks.RLE_SIZE),
    (rle([PIXELS], ['48', '64']), masks.RLE_SIZE),
    (rle([PIXELS], '48x64'), masks.RLE_SIZE),
    (rle([1, -1, PIXELS]), masks.RLE_COUNTS),
    (rle([1.5, PIXELS - 1.5]), masks.RLE_COUNTS),
    (rle(['1', PIXELS - 1]), masks.RLE_COUNTS),
    (rle({'1': 2}), masks.RLE_COUNTS),
    (rle(PIXELS), masks.RLE_COUNTS),
    (rle(''), masks.RLE_COUNTS),
    (rle('\u00e9\u4e2d'), masks.RLE_COUNTS),
    (rle('garbage \x01'), masks.RLE_COUNTS),
    (rle('ooo'), masks.RLE_COUNTS),  # cut off
    (rle('o' * 20 + '0'), masks.RLE_COUNTS),  # a number of 105 bits
    (rle(compressed([10, 20, 30])[:-1] + 'N'), masks.RLE_COUNTS),  # negative
    (rle([]), masks.RLE_SUM),
    (rle([10, 20, PIXELS - 29]), masks.RLE_SUM),
    (rle([10, 20]), masks.RLE_SUM),
    (rle(compressed([10, 20, PIXELS - 31])), masks.RLE_SUM),
    (rle([PIXELS]), masks.RLE_EMPTY),
    (rle([PIXELS, 0]), masks.RLE_EMPTY),
    (rle(compressed([PIXELS])), masks.RLE_EMPTY),
    # The file.
    (lambda data: data.pop('images'), coco_faults.NOT_COCO),
    (lambda data: data.pop('categories'), coco_faults.NOT_COCO),
    (lambda data: data.pop('annotations'), coco_faults.NOT_COCO),
    (lambda data: data.update(annotations={}), coco_faults.NOT_COCO),
    (lambda data: data.update(images=None), coco_faults.NOT_COCO),
]


def found(path, **options):
    """The kinds of a file and their counts."""
    findings = check_coco(path, **options).findings
    return {kind: findings.count(kind) for is_error in (True, False) for kind in findings.kinds(is_error)}


@pytest.mark.parametrize(('change', 'kind'), FAULTS)
def test_a_fault_is_found_once_and_named(tmp_path, change, kind):
    data = clean()
    change(data)
    path = write(tmp_path, data)
    assert found(path)[kind] == 1
    text = check_coco(path).findings.text(kind.is_error)
    assert text.startswith(str(path))
    assert kind.text in text
    assert kind.fix in text


def test_every_kind_has_a_case():
    members = chain(vars(coco_faults).values(), vars(masks).values())
    kinds = {each for each in members if isinstance(each, Kind)}
    tested = {kind for _, kind in FAULTS} | {coco_faults.UNREADABLE}
    assert tested == kinds


@pytest.mark.parametrize('text', ['', '{"images": [', '\ufeff{}', 'id,name\n1,cat', '[' * 10**5, f'[{"1" * 5000}]'])
def test_no_json(tmp_path, text):
    assert found(write(tmp_path, text)) == {coco_faults.UNREADABLE: 1}


@pytest.mark.parametrize('text', ['[]', '3', 'null', '"images"'])
def test_no_object(tmp_path, text):
    assert found(write(tmp_path, text)) == {coco_faults.NOT_COCO: 1}


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / 'annotations.json'
    path.write_bytes(b'{"images": "\xff\xfe"}')
    assert found(path) == {coco_faults.UNREADABLE: 1}


def all_at_once():
    """A file with every fault, each in an entry of its own, where it can have one."""
    data = clean()
    number = 100
    for change, kind in FAULTS:
        spoiled = clean()
        change(spoiled)
        if kind in (coco_faults.NOT_COCO, coco_faults.NO_IMAGES):
            continue
        for part in ('images', 'categories', 'annotations'):
            for before, after in zip(clean()[part] + [object()], spoiled[part], strict=False):
                if before == after or json.dumps(after) == json.dumps(before if isinstance(before, dict) else None):
                    continue
                number += 1
                if not isinstance(after, dict):
                    data[part].append(after)
                    continue
                entry = dict(after)
                if part == 'annotations':  # each has an image of its own
                    if entry.get('image_id') == 2:
                        entry['image_id'] = number
                        data['images'].append(dict(id=number, file_name=f'{number}.png', width=64, height=48))
                    if type(entry.get('id')) is int and entry['id'] not in (0, 1):
                        entry['id'] = number
                elif type(entry.get('id')) is int and entry['id'] != 1:
                    entry['id'] = number
                    if part == 'images' and entry.get('file_name') == '2.png':
                        entry['file_name'] = f'{number}.png'
                    if part == 'categories' and entry.get('name') == 'dog':
                        entry['name'] = f'{number}'
                data[part].append(entry)
    return data


def test_all_faults_at_once(tmp_path):
    path = write(tmp_path, all_at_once())
    expected = {kind for _, kind in FAULTS} - {coco_faults.NOT_COCO, coco_faults.NO_IMAGES}
    assert found(path).keys() == expected
    lines = check_coco(path).findings.text(is_error=True).splitlines()
    start = next(i for i, line in enumerate(lines) if coco_faults.BOX.text in line)
    cases = sum(kind is coco_faults.BOX for _, kind in FAULTS)
    assert f'({cases} times)' in lines[start]
    examples = lines[start + 1 : start + 4]
    assert all(line.startswith('    image 1') and 'annotation 1' in line for line in examples)
    assert lines[start + 4 : start + 6] == [f'    and {cases - 3} more', f'  {coco_faults.BOX.fix}']


def test_a_place_is_named_by_ids_and_position(tmp_path):
    data = clean()
    annotation(bbox=[4, 5, NAN, 10])(data)
    text = check_coco(write(tmp_path, data)).findings.text(is_error=True)
    assert '    image 2, annotation 2 (annotations[1]): bbox [4, 5, nan, 10]\n' in text


def no_faults():
    rng = np.random.default_rng(0)
    yield annotation(bbox=[-0.5, -0.5, 65, 49], area=3000, segmentation=[[-0.5, -0.5, 64.5, -0.5, 64.5, 48.5]])
    yield annotation(bbox=[4, 5, 20.0, 10.25], area=150.5, iscrowd=False)
    yield annotation(segmentation=[[4, 5, 24, 5, 24, 15], [4, 5, 24, 15, 4, 15]])
    yield annotation(attributes={'occluded': True}, segmentation=dict(size=SIZE, counts=[0, PIXELS]))
    yield image(license=1, date_captured='', coco_url='')
    yield lambda data: data['annotations'].pop(1)  # an image without objects is background
    for _ in range(20):
        runs = np.diff(np.flatnonzero(np.diff(random_mask(rng, *SIZE).ravel('F'), prepend=0, append=0) != 0))
        counts = [1, *runs.tolist(), 0]
        counts[-1] = PIXELS - sum(counts)
        yield rle(counts)
        yield rle(compressed(counts))


@pytest.mark.parametrize('change', list(no_faults()))
def test_no_fault(tmp_path, change):
    data = clean()
    change(data)
    assert not found(write(tmp_path, data))


def test_run_length_encodings_of_pycocotools(tmp_path):
    encode = pytest.importorskip('pycocotools.mask').encode
    rng = np.random.default_rng(0)
    for _ in range(50):
        drawn = random_mask(rng, *SIZE)
        drawn[3, 3] = 1
        encoded = encode(np.asfortranarray(drawn))['counts'].decode()
        runs = masks._decompressed(encoded)
        assert sum(runs) == PIXELS
        assert sum(runs[1::2]) == drawn.sum()
        assert compressed(runs) == encoded


def test_pycocotools_need_not_be_there_and_takes_no_memory(tmp_path):
    """Polygons that would take it gigabytes are checked without it."""
    data = clean()
    mask([[4, 5, 1e9, NAN, 24, 15]])(data)
    set_in('annotations', 2, segmentation=[[0, 0, 2e9, 0, 2e9, 2e9]])(data)
    code = (
        'import resource, sys; sys.modules["pycocotools"] = None;'
        'resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30));'
        'from mmsparx.annotations.coco import check_coco;'
        'print(check_coco(sys.argv[1]).findings.text(True))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, str(write(tmp_path, data))], capture_output=True, text=True, check=True
    )
    assert masks.NOT_FINITE.text in done.stdout
    assert masks.FAR_POLYGON.text in done.stdout


def test_without_masks_their_faults_are_warnings(tmp_path):
    data = clean()
    mask([[1, 2]])(data)
    del data['annotations'][0]['segmentation']
    path = write(tmp_path, data)
    assert found(path, masks=True).keys() == {masks.FEW_POINTS, masks.NO_MASK}
    findings = check_coco(path, masks=False).findings
    assert not findings.text(is_error=True)
    assert masks.FEW_POINTS.text in findings.text(is_error=False)
    for each in data['annotations']:
        each.pop('segmentation', None)
    assert not found(write(tmp_path, data))  # no mask in the file: a set of boxes
    assert found(write(tmp_path, data), masks=True) == {masks.NO_MASK: 5}


def test_a_list_of_images_to_be_tested(tmp_path):
    data = clean()
    del data['annotations']
    path = write(tmp_path, data)
    assert not found(path, annotated=False)
    assert found(path) == {coco_faults.NOT_COCO: 1}


def test_a_fault_among_many_and_twice_over_chunks(tmp_path):
    """Annotations are checked in chunks, and a chunk without faults knows the ids before it."""
    data = clean()
    one = data['annotations'][1]
    count = 3 * coco._AT_ONCE
    data['annotations'] = [{**one, 'id': i} for i in range(1, count + 1)]
    data['annotations'][-1] = {**one, 'id': 5}
    data['annotations'][coco._AT_ONCE + 7] = {**one, 'id': 0}
    set_in('annotations', 2 * coco._AT_ONCE, area=-1)(data)
    checked = found(write(tmp_path, data))
    assert checked == {
        coco_faults.ANNOTATION_ID_TWICE: 1,
        coco_faults.ANNOTATION_ID_0: 1,
        coco_faults.AREA: 1,
        coco_faults.UNUSED_CATEGORY: 1,
    }


ODD = [
    *(None, True, False, 0, -1, 1.5, 10**400, -(10**400), 1e308, NAN, INF, -INF, '', '1', [], {}, {'a': 1}),
    *([[]], [None], [[1, [2]]], [1] * 7, [[1e308] * 6], [[10**400] * 6], {'size': [NAN, 1], 'counts': [NAN]}),
]


def nodes(tree):
    """Every place in nested lists and dicts, as (container, key)."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from nodes(value)


def small():
    """An image with an object and a crowd."""
    data = clean()
    return dict(images=data['images'][:1], categories=data['categories'][:1], annotations=data['annotations'][::4])


def test_nothing_that_json_can_hold_fails_without_a_name(tmp_path):
    """Each value of the file in turn is replaced by each odd one."""
    for i in range(len(list(nodes(small())))):
        for value in ODD:
            data = small()
            parent, key = list(nodes(data))[i]
            parent[key] = value
            findings = check_coco(write(tmp_path, data)).findings
            findings.text(is_error=True)
            findings.text(is_error=False)


def test_categories_and_images_for_other_checks(tmp_path):
    file = check_coco(write(tmp_path, clean()))
    assert file.categories == {1: 'cat', 2: 'dog'}
    assert file.image_ids == {1, 2, 3, 4}


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        check_coco(tmp_path / 'nothing.json')
