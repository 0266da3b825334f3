"""The kinds of faiss index that can be served, and the parameters that a search of one takes.

Served is what has inverted lists of whose articles a search can ask for more, until it has seen
all: `IVF…` with any codes in plain lists, alone, behind a rotation (`OPQ…,IVF…`), or with finer
vectors beside it (`IVF…,SQ8,RFlat`); and, with finer vectors only, codes of four bits in blocks
(`IVF…,PQ64x4fsr,RFlat`), whose scores are rounded once more. Graphs (`HNSW32`) cannot be asked so,
and would lose what a filter wants without a word.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from faiss_server._faiss import faiss

__all__ = ["IndexKind", "UnservedKindError"]


_MORE_CENTRES: Final = 4
_LEAST_CENTRE_LISTS: Final = 8


class UnservedKindError(ValueError):
    """An index cannot be served; the message says why, and what can."""


@dataclass(frozen=True, slots=True)
class IndexKind:
    """An index taken apart. What is searched is `searched`; `index` is what was read or built."""

    index: Any
    searched: Any
    """`index` without the table of ids around it, if there is one."""
    ivf: Any
    has_id_map: bool
    """Whether the lists number the articles 0, 1, … and `index` translates that to ids."""
    is_refined: bool
    rotated: Any
    """The index with a rotation in front of the lists; None: there is none."""

    @classmethod
    def of(cls, index: Any) -> Self:
        """Take an index apart; raises UnservedKindError."""
        has_id_map = isinstance(index, faiss.IndexIDMap)
        searched = faiss.downcast_index(index.index) if has_id_map else index
        is_refined = isinstance(searched, faiss.IndexRefine)
        base = faiss.downcast_index(searched.base_index) if is_refined else searched
        rotated = base if isinstance(base, faiss.IndexPreTransform) else None
        ivf = base if rotated is None else faiss.downcast_index(rotated.index)
        if not isinstance(ivf, faiss.IndexIVF):
            raise UnservedKindError(
                f"{type(ivf).__name__} is not an IVF index; `IVF1,Flat` searches exactly, and "
                "`auto` chooses by size"
            )
        if isinstance(ivf, faiss.IndexIVFPQFastScan):
            if not is_refined:
                raise UnservedKindError(
                    f"{type(ivf).__name__} scores too coarsely alone; put finer vectors beside it "
                    "(`,RFlat` or `,Refine(SQfp16)`)"
                )
        elif not isinstance(faiss.downcast_InvertedLists(ivf.invlists), faiss.ArrayInvertedLists):
            raise UnservedKindError(f"{type(ivf).__name__} does not have plain lists in memory")
        if (is_refined or rotated is not None) and not has_id_map:
            raise UnservedKindError(
                f"{type(searched).__name__} has no table of article ids around it (`IDMap`)"
            )
        if rotated is not None:
            _check_rotations(rotated)
        return cls(index, searched, ivf, has_id_map, is_refined, rotated)

    @property
    def is_rotated(self) -> bool:
        """Whether there is a rotation in front of the lists."""
        return self.rotated is not None

    @property
    def is_fast_scan(self) -> bool:
        """Whether the codes lie in blocks that are scored many at once."""
        return isinstance(self.ivf, faiss.IndexIVFPQFastScan)

    @property
    def lists(self) -> int:
        """How many lists there are."""
        count: int = self.ivf.nlist
        return count

    @property
    def bytes_of_codes(self) -> int:
        """What the vectors of one article take, those beside the codes included."""
        total: int = self.ivf.code_size
        if self.is_refined:
            total += self.searched.refine_index.sa_code_size()
        return total

    @property
    def halves(self) -> NDArray[np.float16] | None:
        """View finer vectors that are half floats, float16[n, dimension], in the order of adding.

        None where there are none. The view is good for as long as this index is there.
        """
        finer = faiss.downcast_index(self.searched.refine_index) if self.is_refined else None
        if not isinstance(finer, faiss.IndexScalarQuantizer):
            return None
        if finer.sq.qtype != faiss.ScalarQuantizer.QT_fp16:
            return None
        codes: NDArray[np.uint8] = faiss.rev_swig_ptr(finer.codes.data(), finer.codes.size())
        return codes.view(np.float16).reshape(-1, finer.d)

    def parameters(self, nprobe: int, refine_factor: float = 1.0, allowed: Any = None) -> Any:
        """Make the parameters of searches of `searched`.

        faiss takes a missing nprobe for 1, silently. `refine_factor` times k articles are scored by
        the finer vectors. `allowed` is a faiss IDSelector of what the lists number.
        """
        parameters = faiss.SearchParametersIVF(
            nprobe=nprobe, sel=allowed, quantizer_params=self._of_quantizer(nprobe)
        )
        if self.is_rotated:
            parameters = faiss.SearchParametersPreTransform(index_params=parameters)
        if self.is_refined:
            parameters = faiss.IndexRefineSearchParameters(
                k_factor=refine_factor, base_index_params=parameters
            )
        return parameters

    def search(
        self, queries: NDArray[np.float32], k: int, nprobe: int, refine_factor: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Search `index`; ids and scores [q, k], best first, -1 where there are no more."""
        scores, ids = self.index.search(
            np.ascontiguousarray(queries), k, params=self.parameters(nprobe, refine_factor)
        )
        return ids, scores

    def search_by_parts(
        self,
        query: NDArray[np.float32],
        k: int,
        allowed: Any,
        sizes: NDArray[np.int64],
        at_once: int,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Search the codes in all lists for float32[dimension], the nearest lists first.

        Each part is so many whole lists that they hold about `at_once` articles, and yields the
        numbers and scores of its best, at most k. `allowed` is a faiss IDSelector of what the lists
        number, `sizes` is `sizes_of_lists()`.
        """
        queries = self._turned(np.ascontiguousarray(query[None]))
        scores, lists = self.ivf.quantizer.search(
            queries, self.lists, params=self._of_quantizer(self.lists)
        )
        part_of_each = np.cumsum(sizes[lists[0]]) // at_once
        ends = np.flatnonzero(np.diff(part_of_each)) + 1
        for numbers, centres in zip(
            np.split(lists[0], ends), np.split(scores[0], ends), strict=True
        ):
            yield self._search_lists(queries, k, numbers, centres, allowed)

    def _search_lists(
        self,
        queries: NDArray[np.float32],
        k: int,
        lists: NDArray[np.int64],
        centres: NDArray[np.float32],
        allowed: Any,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Search these lists, whose centres have these scores."""
        found, scores = np.empty(k, np.int64), np.empty(k, np.float32)
        arrays = (queries, lists, centres, scores, found)
        query, *others = (faiss.swig_ptr(array) for array in arrays)
        # As it is in C++: what faiss gives Python takes no parameters.
        self.ivf.search_preassigned_c(
            1, query, k, *others, False, faiss.SearchParametersIVF(nprobe=lists.size, sel=allowed)
        )
        return found[found >= 0], scores[found >= 0]

    def _turned(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Answer the queries as the lists take them."""
        if self.rotated is not None:
            for number in range(self.rotated.chain.size()):
                queries = self.rotated.chain.at(number).apply(queries)
        return queries

    @property
    def default_nprobe(self) -> int:
        """How many lists the index's file says to probe."""
        nprobe: int = self.ivf.nprobe
        return nprobe

    @property
    def default_refine_factor(self) -> float:
        """The refine factor of the index's file."""
        return float(self.searched.k_factor) if self.is_refined else 1.0

    def reached(self) -> int:
        """Count the articles that a search of all lists comes upon: only sound ones do with all.

        The zero vector's score is 0 with every article, but no number where a value is not finite.
        A coarse quantizer that is approximate may never name some list: the fewest articles that
        it names to a few queries in all directions count.
        """
        nothing = np.zeros((1, self.ivf.d), np.float32)
        directions = np.eye(self.ivf.d, dtype=np.float32)[:8]
        if self.is_fast_scan:  # it rounds, and finds nothing by a radius
            finite = np.isfinite(faiss.vector_to_array(self.ivf.pq.centroids)).all()
            return min(self._named_to(np.concatenate([nothing, directions]))) if finite else 0
        everywhere = faiss.SearchParametersIVF(
            nprobe=self.lists, quantizer_params=self._of_quantizer(self.lists)
        )
        found, _, _ = self.ivf.range_search(nothing, -1.0, params=everywhere)
        if isinstance(faiss.downcast_index(self.ivf.quantizer), faiss.IndexFlat):
            return int(found[-1])
        return min(int(found[-1]), *self._named_to(directions))

    def _named_to(self, queries: NDArray[np.float32]) -> list[int]:
        """Count the articles in the lists that each query is named when it asks for all."""
        sizes = self.sizes_of_lists()
        parameters = self._of_quantizer(self.lists)
        _, named = self.ivf.quantizer.search(queries, self.lists, params=parameters)
        return [int(sizes[np.unique(row[row >= 0])].sum()) for row in named]

    def _of_quantizer(self, nprobe: int) -> Any:
        """Where lists of centres are searched for the lists to probe: as many as hold four times
        what is asked for, and at least eight; all of them where all lists are asked for.
        """
        quantizer = faiss.downcast_index(self.ivf.quantizer)
        if not isinstance(quantizer, faiss.IndexIVF):
            return None
        share = nprobe / self.lists
        wanted = math.ceil(_MORE_CENTRES * share * quantizer.nlist)
        most: int = quantizer.nlist
        return faiss.SearchParametersIVF(nprobe=min(most, max(_LEAST_CENTRE_LISTS, wanted)))

    def sizes_of_lists(self) -> NDArray[np.int64]:
        """Count the articles in each list, int64[lists]."""
        lists = faiss.downcast_InvertedLists(self.ivf.invlists)
        return np.array([lists.list_size(number) for number in range(self.lists)], np.int64)

    def ids_in_lists(self) -> list[NDArray[np.int64]]:
        """View the numbers in each list that is not empty, int64, to be changed in place."""
        lists = faiss.downcast_InvertedLists(self.ivf.invlists)
        return [
            faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number))
            for number in range(self.lists)
            if lists.list_size(number)
        ]

    def article_ids(self) -> NDArray[np.int64]:
        """Answer the ids of an index that is not empty, int64[n], in no order."""
        if self.has_id_map:
            ids: NDArray[np.int64] = faiss.vector_to_array(self.index.id_map)
            return ids
        return np.concatenate(self.ids_in_lists())

    def set_defaults(self, nprobe: int, refine_factor: float) -> None:
        """Have searches without parameters, and the index's file, use these."""
        self.ivf.nprobe = nprobe
        if self.is_refined:
            self.searched.k_factor = refine_factor


def _check_rotations(transformed: Any) -> None:
    """Only a rotation leaves inner products as they are."""
    for number in range(transformed.chain.size()):
        step = faiss.downcast_VectorTransform(transformed.chain.at(number))
        if not isinstance(step, faiss.LinearTransform) or step.d_in != step.d_out or step.have_bias:
            raise UnservedKindError(
                f"{type(step).__name__} changes inner products; OPQ and RR with the vectors' own "
                "dimension do not"
            )
