from service_runtime.short_work import ShortWork


def test_what_is_unknown_is_not_short():
    assert not ShortWork().is_short()


def test_short_is_what_usually_takes_less_than_a_millisecond():
    work = ShortWork()
    work.learn(0.0004)
    assert work.is_short()
    assert work.is_short(2)
    assert not work.is_short(3)


def test_alone_twice_as_much_is_short():
    work = ShortWork()
    work.learn(0.0019)
    assert not work.is_short()
    assert work.is_short(alone=True)
    assert not work.is_short(2, alone=True)
    assert not ShortWork().is_short(alone=True)


def test_one_slow_time_changes_little_and_many_change_it():
    work = ShortWork()
    work.learn(0.0002)
    work.learn(0.005)
    assert work.is_short()
    for _ in range(10):
        work.learn(0.005)
    assert not work.is_short()


def test_many_units_at_once_count_each():
    work = ShortWork()
    work.learn(0.0008, units=8)
    assert work.is_short(9)
    assert not work.is_short(11)
