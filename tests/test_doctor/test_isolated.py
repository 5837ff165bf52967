"""What ends a process is told, and a fresh one goes on."""

import pytest

from mmsparx.doctor import isolated

MODULES = {
    'noisy': "import os\nprint('printed')\nos.system('echo from a child')\ndef ask(*words): return list(words)",
    'broken': "raise ImportError('/path/to/_ext.so: undefined symbol: _ZN3c105ErrorE')",
    'talkative': "raise RuntimeError('CUDA error: no kernel image\\nCompile with `X`.')",
    'crashing': 'import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)',
    'leaving': 'import os\nos._exit(3)',
    'waiting': 'import threading\nthreading.Event().wait()',
    'last': "import sys\nassert 'noisy' not in sys.modules",
}


@pytest.fixture
def modules(tmp_path, monkeypatch):
    for name, source in MODULES.items():
        (tmp_path / f'{name}.py').write_text(source)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))


@pytest.mark.usefixtures('modules')
class TestRun:
    def test_results(self):
        assert isolated.run(['noisy', 'noisy:ask', 'noisy:ask one two ']) == {
            'noisy': (None, None),
            'noisy:ask': ([], None),
            'noisy:ask one two ': (['one', 'two'], None),
        }

    def test_nothing_asked(self):
        assert isolated.run([]) == {}

    def test_each_that_ends_its_process_is_told_apart(self):
        assert isolated.run(['noisy', 'broken', 'talkative', 'crashing', 'leaving', 'absent', 'last']) == {
            'noisy': (None, None),
            'broken': (None, 'ImportError: /path/to/_ext.so: undefined symbol: _ZN3c105ErrorE'),
            'talkative': (None, 'RuntimeError: CUDA error: no kernel image Compile with `X`.'),
            'crashing': (None, 'the process was ended by SIGSEGV'),
            'leaving': (None, 'exit status 3'),
            'absent': (None, "ModuleNotFoundError: No module named 'absent'"),
            'last': (None, None),
        }

    def test_an_endless_wait(self, monkeypatch):
        monkeypatch.setattr(isolated, 'TIME_LIMIT', 2)
        outcomes = isolated.run(['waiting'])
        assert outcomes == {'waiting': (None, 'no answer within 2 s')}
