"""Names that look like several scans of one person, and names that do not."""

from __future__ import annotations

import re

import pytest

from delineate.data.siblings import suspect


def names(text: str) -> dict[str, str]:
    return {name: name for name in text.split()}


ONE_PERSON = {
    "eyes": "Image_01L Image_01R Image_02L Image_02R",
    "eyes, one of them alone": "Image_01L Image_01R Image_02L Image_02R Image_03L",
    "words": "p1_left p1_right p2_left p2_right",
    "OD, OS": "12_OD 12_OS 13_OD 13_OS",
    "small letters": "7-l 7-r 8-l 8-r",
    "visits": "anna_t0 anna_t1 bert_t0 bert_t1 carl_t0",
    "visits of the numbered": "s01-visit1 s01-visit2 s02-visit1 s02-visit2",
    "sessions": "sub-01_ses-1 sub-01_ses-2 sub-02_ses-1 sub-02_ses-2",
    "before and after": "p3_pre p3_post p4_pre p4_post",
    "views": "0007_CC 0007_MLO 0008_CC 0008_MLO",
    "letters": "12a 12b 13a 13b 14",
    "numbers": "p01_1 p01_2 p02_1 p02_2",
    "numbers after a dash": "0001-01 0001-02 0002-01 0003-01 0003-02",
    "three digits": "GLI-00000-000 GLI-00000-001 GLI-00005-000 GLI-00005-001",
    "two endings": "p01_t0_L p01_t0_R p01_t1_L p01_t1_R p02_t0_L p02_t1_L p02_t1_R",
    "dates": "p1_20200101 p1_20210101 p2_20200301 p2_2022-01-01",
    "in the middle": "01_L_vessel 01_R_vessel 02_L_vessel 02_R_vessel 03_L_disc",
    "visits in the middle": "sub-01_ses-01_T1w sub-01_ses-02_T1w sub-02_ses-01_T1w sub-02_ses-2_x",
    "numbered, and counted on": "person1_virus_7 person1_virus_8 person2_virus_9 IM-0115-0001",
    "in front": "left_001 right_001 left_002 right_002",
}


@pytest.mark.parametrize("kind", ONE_PERSON)
def test_scans_of_one_person_are_suspected_and_the_pattern_joins_them(kind: str) -> None:
    found = suspect(names(ONE_PERSON[kind]))
    assert found is not None
    assert found.pattern is not None
    joined: dict[str, list[str]] = {}
    for name in ONE_PERSON[kind].split():
        match = re.search(found.pattern, name)
        assert match is not None
        joined.setdefault(match[1], []).append(name)
    several = {tuple(sorted(group)) for group in joined.values() if len(group) > 1}
    assert several == set(found.groups)
    people = {re.search(r"\d+|anna|bert|carl", n.replace("GLI-", ""))[0] for n in
              ONE_PERSON[kind].split()}  # type: ignore[index]  # fmt: skip
    assert len(joined) == len(people)


@pytest.mark.parametrize(
    "text",
    [
        "case_1 case_2 case_3 case_4",
        "case_001 case_002 case_010 case_011",
        "img_t1 img_t2 img_t3",
        "BraTS20_Training_001 BraTS20_Training_002 BraTS20_Training_003",
        "train_1 train_2 test_1 test_2",
        "site1_1 site1_2 site1_3 site2_1 site2_2",
        "batch1_001 batch1_002 batch2_001 batch2_002",
        "hippocampus_001 hippocampus_003 hippocampus_004",
        "a b c d",
        "1 2 3 10 11 12",
        "p1 p2 p3",
        "IXI002-Guys-0828 IXI012-HH-1211 IXI013-HH-1212",
        "ISIC_0024306 ISIC_0024307",
        "TCGA-02-0006 TCGA-02-0011 TCGA-06-0119",
        "0a 0b 0c 0d 0e 0f 1a 1b 1c 1d 1e 1f",
        "Image_01L Image_02L Image_03R",
        "siteA_L_01 siteA_R_01 siteA_L_02 siteB_L_01 siteB_R_01",
        "site1_L_01 site1_R_01 site2_L_01 site2_R_01",
        "2020_01_05 2020_01_06 2020_02_01",
        "1_5 1_9 2_17 3_4",
        " ".join(f"{p}_{n}" for p in (1, 2) for n in range(1, 40)),
    ],
)
def test_running_numbers_and_places_are_no_suspicion(text: str) -> None:
    assert suspect(names(text)) is None


def test_folders_of_several_files_are_joined_by_their_case_ids() -> None:
    cases = {f"p{n}_{when}_{scan}": f"p{n}_{when}" for n in (1, 2) for when in ("pre", "post")
             for scan in ("t1", "t2")}  # fmt: skip
    found = suspect(cases)
    assert found is not None
    assert found.groups == (("p1_post", "p1_pre"), ("p2_post", "p2_pre"))
    assert found.pattern is not None
    assert {re.search(found.pattern, name)[1] for name in cases} == {"p1", "p2"}  # type: ignore[index]


def test_no_pattern_is_given_that_would_join_others() -> None:
    found = suspect({**names("01L 01R 02L 02R"), "control": "control", "contro": "contro"})
    assert found is not None
    assert found.pattern is not None
    assert len({re.search(found.pattern, n)[1] for n in ("01L", "control", "contro")}) == 3  # type: ignore[index]
    blind = suspect(names("01L 01R 02L 02R 02"))  # 02 might be anyone
    assert blind is not None


def test_pictures_that_are_counted_in_each_class_folder_are_of_different_people() -> None:
    for classes in (("benign", "malignant", "normal"), ("0", "1"), ("grade 1", "grade 2")):
        for name in ("{}_{}", "{} ({})", "train_{}_{}"):
            ids = [name.format(label, n) for label in classes for n in range(1, 6)]
            assert suspect({i: i for i in ids}, classes) is None
    eyes = [f"{label}_{n}_{side}" for label in ("0", "1") for n in (11, 12, 13) for side in "LR"]
    found = suspect({i: i for i in eyes}, ("0", "1"))
    assert found is not None
    assert len(found.groups) == 6
