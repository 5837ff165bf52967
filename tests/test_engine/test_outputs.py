"""Names of results."""

from mmsparx.engine.outputs import distinct_stems


def test_stems_are_told_apart_by_suffixes_where_they_have_to_be():
    names = ['a.jpg', 'a.png', 'b.jpg', 'deep/a.jpg', 'x.1.png', 'x.2.png']
    assert distinct_stems(names) == {
        'a.jpg': 'a.jpg',
        'a.png': 'a.png',
        'b.jpg': 'b',
        'deep/a.jpg': 'deep/a',
        'x.1.png': 'x.1',
        'x.2.png': 'x.2',
    }


def test_a_name_with_its_suffix_may_be_the_stem_of_a_third():
    stems = distinct_stems(['a.jpg', 'a.png', 'a.jpg.bmp'])
    assert stems == {name: name for name in stems}
