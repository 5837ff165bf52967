"""The end of a process is reported, and a new process continues."""

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


def test_every_end_of_a_process_is_reported(tmp_path, monkeypatch):
    for name, source in MODULES.items():
        (tmp_path / f'{name}.py').write_text(source)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    monkeypatch.setattr(isolated, 'TIME_LIMIT', 5)
    calls = ['noisy', 'noisy:ask one two ', 'broken', 'talkative', 'crashing', 'leaving', 'waiting', 'absent', 'last']
    assert isolated.run(calls) == {
        'noisy': (None, None),
        'noisy:ask one two ': (['one', 'two'], None),
        'broken': (None, 'ImportError: /path/to/_ext.so: undefined symbol: _ZN3c105ErrorE'),
        'talkative': (None, 'RuntimeError: CUDA error: no kernel image Compile with `X`. (in talkative)'),
        'crashing': (None, 'the process was ended by SIGSEGV'),
        'leaving': (None, 'exit status 3'),
        'waiting': (None, 'no answer within 5 s'),
        'absent': (None, "ModuleNotFoundError: No module named 'absent'"),
        'last': (None, None),
    }
