"""The documentation site: it builds strictly, loads nothing from the network, and its links have targets."""

import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from helpers.tools import ROOT, load_tool

for package in ('mkdocs', 'material', 'mkdocstrings_handlers.python'):
    pytest.importorskip(package, reason="the site needs pip install 'mmsparx[docs]'")

# Tags that a browser loads by itself, and the attribute with the address.
LOADED = {'link': 'href', **dict.fromkeys(('script', 'img', 'iframe', 'source', 'video', 'audio'), 'src')}
PUBLIC = [
    'ops',
    'models',
    'layers.mixers',
    'layers.aggregators',
    'weights',
    'hub',
    'export',
    'engine',
    'analysis',
    'zoo',
]


class Page(HTMLParser):
    """A page: addresses that it loads, links and anchors."""

    def __init__(self, path: Path):
        super().__init__()
        self.loaded, self.links, self.anchors = [], [], set()
        self.text = path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs[key] for key in ('id', 'name') if attrs.get(key)}
        if tag in LOADED and attrs.get(LOADED[tag]) and attrs.get('rel') not in ('canonical', 'prev', 'next'):
            self.loaded.append(attrs[LOADED[tag]])
        if tag == 'a' and attrs.get('href'):
            self.links.append(attrs['href'])


def build(folder: Path, **variables: str) -> Path:
    """Build the site into a folder; returns it."""
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--config-file', ROOT / 'mkdocs.yml']
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('NO_MKDOCS_2_WARNING', '1')
        for name, value in variables.items():
            patch.setenv(name, value)
        done = subprocess.run(
            [*command, '--site-dir', folder], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp('site'))


@pytest.fixture(scope='module')
def pages(site) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob('*.html')}


def test_nothing_is_loaded_from_the_network(site, pages):
    assert len(pages) > 30
    loaded = {address for page in pages.values() for address in page.loaded}
    assert any(address.endswith('.css') for address in loaded)
    assert not [address for address in loaded if urlsplit(address).netloc]
    for style in site.rglob('*.css'):
        assert not re.search(r'(?:url\(|@import)\s*["\']?(?:https?:)?//', style.read_text()), style
    # The theme's script requests diagrams by Mermaid and facts about `repo_url` from hosts.
    for path, page in pages.items():
        assert 'class="mermaid"' not in page.text, path
        assert 'data-md-component="source"' not in page.text, path


def test_links_have_targets(site, pages):
    checked = 0
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            address = urlsplit(link)
            if address.scheme or path.name == '404.html':
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            target = target / 'index.html' if target.is_dir() else target
            assert target.is_file(), f'{path.relative_to(site)}: {link}'
            if address.fragment and target in pages and address.fragment != '__consent':
                assert unquote(address.fragment) in pages[target].anchors | {''}, f'{path.relative_to(site)}: {link}'
            checked += 1
    assert checked > 1000


def test_markdown_is_read_as_on_the_host(pages):
    """Lists and tables, which are text to Python-Markdown without a blank line above them, and links."""
    for path, page in pages.items():
        text = re.sub(r'<(pre|code)\b.*?</\1>', '', page.text, flags=re.DOTALL)
        for paragraph in re.findall(r'<p>(.*?)</p>', text, re.DOTALL):
            assert not re.search(r'^(?:- |\d\. |\| )|\]\(|```', paragraph, re.MULTILINE), f'{path}: {paragraph}'


def test_the_reference_has_all_public_names(pages):
    pytest.importorskip('mmengine', reason='the networks need mmengine')
    anchors = set().union(*(page.anchors for path, page in pages.items() if 'api' in path.parts))
    # A function in a module of the same name must not be taken for the module.
    assert not [path for path, page in pages.items() if 'doc-symbol-module' in page.text]
    for package in PUBLIC:
        module = importlib.import_module(f'mmsparx.{package}')
        for name in module.__all__:
            if (value := getattr(module, name)).__doc__ and callable(value):
                alias = f'mmsparx.{package}.{name}'
                # The second entry is of functions in a module of their name.
                assert {alias, f'{alias}.{name}', f'{value.__module__}.{value.__qualname__}'} & anchors, alias


def test_each_page_describes_itself(pages):
    described = {
        path: re.findall('<meta name="description" content="(.+?)"', page.text)
        for path, page in pages.items()
        if path.name != '404.html'
    }
    assert not [path for path, found in described.items() if len(found) != 1]
    assert len({found for (found,) in described.values()}) == len(described)


def test_columns_of_tests_are_left_out(site):
    assert '| message | test |' in (ROOT / 'docs/faults.md').read_text()
    text = (site / 'faults/index.html').read_text()
    assert 'No space left on device' in text
    assert '<th>test</th>' not in text
    assert 'test_safe_checkpoint' not in text


def test_links_to_sources_lead_to_the_repository(tmp_path, pages, site):
    """They are links if its address is known, and text with the path otherwise."""
    assert '(<code>configs/detection/examples/mask_rcnn_sparx_t_own_classes.py</code>)' in (
        pages[site / 'own_data/index.html'].text
    )
    site = build(tmp_path, REPOSITORY_URL='https://host.invalid/mmsparx')
    page = Page(site / 'own_data/index.html')
    config = 'configs/detection/examples/mask_rcnn_sparx_t_own_classes.py'
    assert f'https://host.invalid/mmsparx/blob/main/{config}' in page.links
    assert 'https://host.invalid/mmsparx/tree/main/benchmarks/results' in Page(site / 'speed/index.html').links
    assert not [each for path in site.rglob('*.html') for each in Page(path).loaded if 'host.invalid' in each]


def test_a_link_to_nothing_is_an_error():
    site_hook = load_tool('site_hook')
    file = type('', (), {'abs_src_path': str(ROOT / 'docs/scan.md'), 'src_uri': 'scan.md'})
    page = type('', (), {'file': file, 'meta': {}})
    with pytest.raises(FileNotFoundError, match=r'scan\.md links to no_such\.md'):
        site_hook.on_page_markdown('[x](no_such.md)', page, None, None)
    code = '    [x](no_such.md)\n```\n[x](no_such.md)\n```\n'
    assert site_hook.on_page_markdown(code, page, None, None) == code
