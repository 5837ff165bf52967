"""MkDocs hook: pages from files outside docs/, and links that work both on the host and on the site."""

import posixpath
import re
import textwrap
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Pages of the site, by files of the repository.
OUTSIDE = {
    'README.md': 'index.md',
    'CHANGELOG.md': 'changelog.md',
    'CONTRIBUTING.md': 'contributing.md',
    'SECURITY.md': 'security.md',
    'CODE_OF_CONDUCT.md': 'code_of_conduct.md',
    'benchmarks/README.md': 'benchmarks.md',
    **{
        f'configs/{task}/README.md': f'configs/{task}.md'
        for task in ('ablations', 'classification', 'detection', 'segmentation')
    },
}
CODE_BLOCK = re.compile(r'(^```.*?^```|(?:^    [^\n]*\n)+)', re.MULTILINE | re.DOTALL)
LINK = re.compile(r'(\[[^\[\]]*\])\(([^)\s]+)\)|src="([^"]+)"')
TABLE_WITH_TESTS = re.compile(r'^\|.*\| test \|\n(?:\|.*\n?)+', re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Link the repository in the footer, if its address is known."""
    if repository := config.extra.get('repository'):
        config.extra['social'] = [{'icon': 'fontawesome/brands/git-alt', 'link': repository, 'name': 'Repository'}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    for path, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def describe(markdown: str) -> str | None:
    """The first paragraph of text without its markup, cut after 160 characters, or None if there is none."""
    for block in re.split(r'\n{2,}', CODE_BLOCK.sub('\n', markdown)):
        if re.match(r'(?!\d+\. )[\w`*\[]', block):  # no heading, list, table or image
            text = re.sub(r'\[([^\[\]]*)\]\([^)]*\)|[*`"]', r'\1', block)
            return textwrap.shorten(text.rstrip(':'), 160, placeholder=' ...')
    return None


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Describe the page, leave out columns of tests, and turn links between files into links between pages."""
    folder = Path(page.file.abs_src_path).parent
    if description := describe(markdown):
        page.meta.setdefault('description', description)
    if page.file.src_uri == 'changelog.md':
        page.meta['search'] = {'boost': 0.1}  # below the guides
    # The names of tests are for contributors, who read the source.
    markdown = TABLE_WITH_TESTS.sub(lambda table: re.sub(r'\|[^|\n]*\|$', '|', table[0], flags=re.MULTILINE), markdown)

    def linked(match: re.Match) -> str:
        text, target, source = match.groups()
        if re.match(r'[a-z]+:|#', target or source):
            return match[0]
        name, _, anchor = (target or source).partition('#')
        path = (folder / name).resolve()
        if not path.exists():
            raise FileNotFoundError(f'{page.file.src_uri} links to {name}, and there is no such file')
        wanted = path.relative_to(ROOT).as_posix()
        file = files.get_file_from_path(OUTSIDE.get(wanted, wanted.removeprefix('docs/')))
        if file and source:
            return f'src="{file.url_relative_to(page.file)}"'
        if file:
            address = posixpath.relpath(file.src_uri, posixpath.dirname(page.file.src_uri))
            return f'{text}({address}{"#" * bool(anchor)}{anchor})'
        if repository := config.extra.get('repository'):  # a source file, or a folder
            return f'{text}({repository}/{"tree" if path.is_dir() else "blob"}/main/{wanted})'
        label = text[1:-1].strip('`')
        return (
            f'`{label}`'
            if wanted.removesuffix('.py').endswith(label.removesuffix('.py'))
            else f'{text[1:-1]} (`{wanted}`)'
        )

    pieces = CODE_BLOCK.split(markdown)
    pieces[::2] = (LINK.sub(linked, piece) for piece in pieces[::2])
    return ''.join(pieces)
