"""A folder to write into, and a template that is saved once in a module and copied for each test."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'folder'


@pytest.fixture(scope='module')
def template(request, tmp_path_factory):
    """The network that the module's `make_template` makes, and a folder that it is saved in."""
    folder = tmp_path_factory.mktemp('template')
    network = request.module.make_template()
    network.save_pretrained(folder)
    return network, folder


@pytest.fixture
def saved(template, folder):
    """The same, with a folder that may be written to."""
    network, source = template
    return network, Path(shutil.copytree(source, folder))
