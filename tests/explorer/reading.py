"""What a page shows, without its markup."""

import html
import re


def text_of(page: str) -> str:
    """The text of a page, blanks as one."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", page))).strip()


def states(page: str) -> dict[str, str]:
    """The state of each part, by `part`; of several of a kind the last."""
    return dict(re.findall(r'data-part="([^"]+)" data-state="([^"]+)"', page))


def stages(page: str) -> dict[str, str]:
    """What stands beside each bar of the waterfalls."""
    found = re.findall(r'data-stage="([^"]+)".*?<td class="number">([^<]*)<', page, re.DOTALL)
    return dict(found)


def changes(page: str) -> list[str]:
    """The column `change`, of both lists one after the other."""
    return [text_of(cell) for cell in re.findall(r'<td class="change">(.*?)</td>', page, re.DOTALL)]
