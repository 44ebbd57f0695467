"""Features to logits: what is invented, what is kept, what is chosen, and by whom."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.feature_selection import RFE
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from delineate.core.errors import ConfigError
from delineate.methods import _linear
from delineate.methods._linear import Recipe, Samples

RNG = np.random.default_rng


def toy(pictures: int = 240, features: int = 40, classes: int = 2, seed: int = 0) -> Samples:
    """Classes that the first three features tell and the others do not; 24 subjects."""
    rng = RNG(seed)
    class_index = rng.integers(classes, size=pictures)
    x = rng.normal(size=(pictures, features)) * np.linspace(0.1, 20, features) + 5
    x[:, :3] += 1.5 * x[:, :3].std(0) * (class_index[:, None] == np.arange(3) % classes)
    subject = np.arange(pictures) % 24
    return Samples(x, class_index, subject, np.ones(pictures))


def kept(weight: np.ndarray) -> set[int]:
    return set(np.flatnonzero((weight != 0).any(0)).tolist())


# ---------------------------------------------------------------------------------------- smote


def test_invented_members_lie_between_neighbours_of_their_class() -> None:
    rng = RNG(0)
    x = np.concatenate(
        [rng.normal(size=(40, 3)), rng.normal(8, 1, (12, 3)), rng.normal(size=(7, 3))]
    )
    class_index = np.repeat([0, 1, 2], [40, 12, 7])
    found, names = _linear.smote(x, class_index, RNG(1))
    assert np.array_equal(found[:59], x)
    assert np.array_equal(names[:59], class_index)
    assert np.bincount(names).tolist() == [40, 40, 40]
    for point, name in zip(found[59:], names[59:], strict=True):
        own = x[class_index == name]
        apart = np.linalg.norm(own[:, None] - own[None], axis=2)
        near = apart.argsort(1)[:, 1:6]
        on_a_segment = [
            abs(np.linalg.norm(point - own[i]) + np.linalg.norm(point - own[j]) - apart[i, j])
            < 1e-9
            for i in range(len(own))
            for j in near[i]
        ]
        assert any(on_a_segment)


def test_every_member_has_as_many_descendants_give_or_take_one() -> None:
    x = np.concatenate([np.zeros((10, 1)), [[0.0], [10.0], [200.0]]])
    found, _ = _linear.smote(x, np.repeat([0, 1], [10, 3]), RNG(0), neighbours=1)
    new = np.sort(found[13:, 0])
    # 0 and 10 have each other as neighbours, 200 has 10: 7 are 3 + 2 + 2
    assert len(new) == 7
    assert 4 <= (new <= 10).sum() <= 5
    assert ((new >= 0) & (new <= 200)).all()


def test_nothing_is_invented_of_one_member_or_where_classes_are_alike() -> None:
    x, class_index = np.arange(5.0)[:, None], np.array([0, 0, 0, 0, 1])
    assert len(_linear.smote(x, class_index, RNG(0))[0]) == 5
    assert len(_linear.smote(x[:4], np.array([0, 1, 1, 0]), RNG(0))[0]) == 4


def test_rare_classes_are_found_more_often_with_smote() -> None:
    whole = toy(600)
    few = np.concatenate(
        [np.flatnonzero(whole.class_index == 0), np.flatnonzero(whole.class_index == 1)[:12]]
    )
    recall = {}
    for smote in (False, True):
        fitted = _linear.fit(whole.part(few), 2, Recipe(select="none", smote=smote))
        said = (toy(600, seed=1).features @ fitted.weight.T + fitted.bias).argmax(1)
        recall[smote] = (said[toy(600, seed=1).class_index == 1] == 1).mean()
    assert recall[True] > recall[False] + 0.1


# ------------------------------------------------------------------------------------ selection


def test_elimination_is_that_of_scikit_learn_and_drops_noise() -> None:
    samples = toy()
    x = StandardScaler().fit_transform(samples.features)
    recipe = Recipe(keep=3)
    mine = _linear.selected(x, samples.class_index, samples.weight, recipe)
    theirs = RFE(LinearSVC(C=1e-2, dual=False), n_features_to_select=3, step=0.1)
    assert np.array_equal(mine, np.flatnonzero(theirs.fit(x, samples.class_index).support_))
    assert mine.tolist() == [0, 1, 2]


def test_boosted_trees_drop_noise_too() -> None:
    samples = toy()
    fitted = _linear.fit(samples, 2, Recipe(select="boosting", keep=3))
    assert kept(fitted.weight) == {0, 1, 2}


@pytest.mark.parametrize(("features", "count"), [(9, 3), (128, 11), (1024, 32), (50_000, 200)])
def test_how_many_are_kept_where_nothing_is_said(features: int, count: int) -> None:
    recipe, rng = Recipe(select="boosting"), RNG(0)
    x, class_index = rng.normal(size=(8, features)), np.arange(8) % 2
    assert len(_linear.selected(x, class_index, np.ones(8), recipe)) == count


# ------------------------------------------------------------------------------- what is fitted


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("head", ["svm", "logistic"])
def test_it_is_the_machine_of_scikit_learn_on_scaled_features(classes: int, head: str) -> None:
    samples = toy(classes=classes)
    recipe = Recipe(select="none", head=head)
    ((weight, bias),) = _linear.affine(samples, recipe, [0.1])
    x = StandardScaler().fit_transform(samples.features)
    theirs = (
        LinearSVC(C=0.1, dual=False, tol=1e-3) if head == "svm" else LogisticRegression(C=0.1)
    ).fit(x, samples.class_index)
    mine = samples.features @ weight.T + bias
    assert np.array_equal(mine.argmax(1), theirs.predict(x))
    expected = theirs.decision_function(x)
    found = mine[:, 1] - mine[:, 0] if classes == 2 else mine
    np.testing.assert_allclose(found, expected, atol=1e-2)


def test_constant_features_get_no_weight() -> None:
    samples = toy(features=6)
    samples.features[:, 4] = 3.0
    samples.features[:, 5] = 1e6 + 1e-3 * samples.class_index  # a spread that float32 does not have
    fitted = _linear.fit(samples, 2, Recipe(select="none"))
    assert kept(fitted.weight) == {0, 1, 2, 3}


def test_pictures_that_count_nothing_change_nothing() -> None:
    samples = toy()
    wrong = samples._replace(
        features=np.concatenate([samples.features, samples.features]),
        class_index=np.concatenate([samples.class_index, 1 - samples.class_index]),
        subject=np.concatenate([samples.subject, samples.subject]),
        weight=np.concatenate([samples.weight, 0 * samples.weight]),
    )
    recipe = Recipe(select="none")
    for one, two in zip(
        _linear.affine(samples, recipe, [0.1])[0], _linear.affine(wrong, recipe, [0.1])[0],
        strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(one, two, atol=2e-2)


# ------------------------------------------------------------------------------ what is chosen


def test_folds_never_part_a_subject_and_hold_every_class() -> None:
    samples = toy(classes=3)
    parts = _linear.folds(samples, 3)
    assert len(parts) == 5
    tested = np.concatenate([test for _, test in parts])
    assert np.array_equal(np.sort(tested), np.arange(240))
    for train, test in parts:
        assert not set(samples.subject[train]) & set(samples.subject[test])
        assert set(samples.class_index[train]) == {0, 1, 2}


def identities() -> Samples:
    """Classes drawn by subject, and features that tell subjects apart but no class."""
    rng = RNG(3)
    subject = np.repeat(np.arange(20), 12)
    class_index = (rng.permutation(20) % 2)[subject]
    x = rng.normal(size=(20, 60))[subject] + 0.1 * rng.normal(size=(240, 60))
    return Samples(x, class_index, subject, np.ones(240))


@pytest.mark.parametrize("select", ["rfe", "boosting", "none"])
def test_features_that_know_the_subject_do_not_make_it_sure(select: str) -> None:
    samples, recipe = identities(), Recipe(select=select)
    fair = _linear.fit(samples, 2, recipe)
    fooled = _linear.fit(samples._replace(subject=np.arange(240)), 2, recipe)
    assert fooled.accuracy > 0.8
    assert 0.2 < fair.accuracy < 0.8

    def sure(fitted: _linear.Fitted) -> float:
        """Mean of the larger probability on subjects that were never seen."""
        x = RNG(9).normal(size=(500, 60))
        logits = x @ fitted.weight.T + fitted.bias
        return float((1 / (1 + np.exp(-abs(logits[:, 1] - logits[:, 0])))).mean())

    assert sure(fair) < 0.65
    assert sure(fooled) > sure(fair) + 0.1


def test_probabilities_on_new_subjects_are_those_that_come_true() -> None:
    fitted = _linear.fit(toy(960), 2, Recipe(select="none"))
    new = toy(4000, seed=5)
    logits = new.features @ fitted.weight.T + fitted.bias
    p = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        inside = (p >= low) & (p < high)
        assert abs(new.class_index[inside].mean() - p[inside].mean()) < 0.06


def test_a_scale_keeps_what_was_decided_and_is_finite_where_classes_part() -> None:
    decisions = np.array([[-1.0, 1.0]] * 20 + [[1.0, -1.0]] * 20)
    scale, loss = _linear.scaled(decisions, np.repeat([1, 0], 20), np.ones(40))
    # Platt's targets: 21/22 of the probability, so the scale is half the logit of that
    assert scale == pytest.approx(np.log(21) / 2, rel=1e-3)
    assert loss == pytest.approx(-(21 / 22 * np.log(21 / 22) + 1 / 22 * np.log(1 / 22)), rel=1e-3)
    worse, _ = _linear.scaled(-decisions, np.repeat([1, 0], 20), np.ones(40))
    assert 0 < worse < 1e-2


@pytest.mark.parametrize("subjects", [1, 2])
def test_with_few_subjects_nothing_is_chosen(subjects: int) -> None:
    samples = toy()
    fitted = _linear.fit(samples._replace(subject=samples.subject % subjects), 2, Recipe())
    assert (fitted.cost, fitted.scale, fitted.folds) == (1.0, 1.0, 0)
    assert np.isnan(fitted.accuracy)
    alone = samples._replace(subject=np.where(samples.class_index == 1, 99, samples.subject))
    assert _linear.fit(alone, 2, Recipe()).folds == 0, "a class of a single subject"


@pytest.mark.parametrize("wrong", [{"select": "pca"}, {"head": "rbf"}, {"keep": 0}])
def test_impossible_recipes_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        Recipe(**wrong)
