import sys
def test_probe(one, monkeypatch):
    import time, subprocess, os
    import pytest_benchmark.plugin as b
    for name,mod in (("Popen",subprocess),):
        pass
    one("--robbench-update")
    t0=time.time()
    import threading
    samples=[]
    main=threading.get_ident(); stop=[]
    import traceback, collections
    def sample():
        while not stop:
            f=sys._current_frames()[main]
            st=traceback.extract_stack(f)
            samples.append(tuple(f"{x.filename.split('/')[-1]}:{x.name}:{x.lineno}" for x in st[-9:]))
            time.sleep(.02)
    th=threading.Thread(target=sample); th.start()
    one("--robbench-update")
    stop.append(1); th.join()
    print("WALL",time.time()-t0)
    for k,v in collections.Counter(samples).most_common(12): print("S",v,k)
