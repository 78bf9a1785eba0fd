"""One entry of DescribeInstanceTypes read, and merged with the package field by field. Entries are synthetic but for
the figures that are compared with the package.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelbench_assets.instances.describe import LiveInstance, read_entry
from accelbench_assets.instances.facts import accelerators, packaged_types
from accelbench_assets.instances.merge import EC2, NOBODY, PACKAGE, Merged, merge
from partitions.catalog import load_instances

Entry = dict[str, Any]
GPU: Entry = {
    "InstanceType": "g6e.xlarge",
    "VCpuInfo": {"DefaultVCpus": 4},
    "MemoryInfo": {"SizeInMiB": 32768},
    "InstanceStorageInfo": {"TotalSizeInGB": 250},
    "NetworkInfo": {
        "NetworkPerformance": "Up to 20 Gigabit",
        "NetworkCards": [{"BaselineBandwidthInGbps": 2.5, "PeakBandwidthInGbps": 20.0}],
    },
    "GpuInfo": {
        "Gpus": [
            {
                **{"Count": 1, "LogicalGpuCount": 1, "GpuPartitionSize": 1.0, "Manufacturer": "NVIDIA"},
                **{"Name": "L40S", "MemoryInfo": {"SizeInMiB": 45776}},
            }
        ],
        "TotalGpuMemoryInMiB": 45776,
    },
    "SupportedUsageClasses": ["spot", "on-demand"],
}
NEURON: Entry = {
    "InstanceType": "trn2.48xlarge",
    "VCpuInfo": {"DefaultVCpus": 192},
    "MemoryInfo": {"SizeInMiB": 2097152},
    "InstanceStorageInfo": {"TotalSizeInGB": 7600},
    "NetworkInfo": {
        "NetworkPerformance": "16x 200 Gigabit",
        "NetworkCards": [{"BaselineBandwidthInGbps": 200.0}] * 16,
        "EfaInfo": {"MaximumEfaInterfaces": 16},
    },
    "NeuronInfo": {
        "NeuronDevices": [
            {
                **{"Count": 16, "Name": "Trainium2", "CoreInfo": {"Count": 8, "Version": 3}},
                "MemoryInfo": {"SizeInMiB": 524288},
            }
        ],
        "TotalNeuronDeviceMemoryInMiB": 8388608,
    },
}
SHARE: Entry = {  # an eighth of an L4
    "InstanceType": "g6f.large",
    "VCpuInfo": {"DefaultVCpus": 2},
    "GpuInfo": {
        "Gpus": [
            {
                **{"Count": 0, "LogicalGpuCount": 1, "GpuPartitionSize": 0.125, "Name": "L4"},
                "MemoryInfo": {"SizeInMiB": 2861},
            }
        ],
        "TotalGpuMemoryInMiB": 2861,
    },
}


def read(entry: Entry) -> LiveInstance:
    found = read_entry(entry)
    assert found is not None
    return found


def merged(entry: Entry | None, name: str | None = None) -> Merged:
    live = read(entry) if entry else None
    return merge(live, load_instances().get(name or (live.instance_type if live else "")), accelerators())


def with_memory(entry: Entry, each: int, total: int | None = None) -> Entry:
    changed = copy.deepcopy(entry)
    devices = changed["GpuInfo"]["Gpus"] if "GpuInfo" in changed else changed["NeuronInfo"]["NeuronDevices"]
    devices[0]["MemoryInfo"]["SizeInMiB"] = each
    info = changed.get("GpuInfo") or changed["NeuronInfo"]
    info[next(k for k in info if k.startswith("Total"))] = total or each * devices[0]["Count"]
    return changed


def test_an_entry_is_read_in_the_catalogs_units() -> None:
    found = read(GPU)
    assert (found.accelerator_kind, found.accelerator_name, found.accelerator_count) == ("gpu", "l40s", 1)
    assert found.accelerator_memory_mib_each == 45776  # 44.70 GiB, not the label's 48
    assert (found.vcpu, found.memory_mib, found.local_nvme_gb, found.efa_interfaces) == (4, 32768, 250, 0)
    assert found.network_gbps == 2.5  # the sustained figure, not the burst of "up to"
    assert found.usage_classes == ("on-demand", "spot")
    assert found.neuron_cores is None
    assert found.doubts == ()
    neuron = read(NEURON)
    assert (neuron.accelerator_kind, neuron.neuron_cores, neuron.network_gbps) == ("neuron", 128, 3200)


@pytest.mark.parametrize(
    ("text", "cards", "gbps", "doubts"),
    [
        ("Up to 10 Gigabit", [2.5], 2.5, 0),
        ("25 Gigabit", [25.0], 25, 0),
        ("4x 100 Gigabit", [100.0] * 4, 400, 0),
        ("200 Gigabit", [200.0, 200.0], 200, 1),  # the text stands, and the difference is told
        ("200 Gigabit", [], 200, 0),
        ("Moderate", [1.5], 1.5, 0),
        ("Moderate", [], None, 0),
        (None, [], None, 0),
    ],
)
def test_network_is_what_is_sustained(
    text: str | None, cards: list[float], gbps: float | None, doubts: int
) -> None:
    entry = {
        **GPU,
        "NetworkInfo": {
            "NetworkPerformance": text,
            "NetworkCards": [{"BaselineBandwidthInGbps": one} for one in cards],
        },
    }
    found = read(entry)
    assert found.network_gbps == gbps
    assert len(found.doubts) == doubts


def test_inferentia_of_the_older_field_and_totals_that_do_not_add_up() -> None:
    entry = {
        "InstanceType": "inf2.xlarge",
        "InferenceAcceleratorInfo": {
            "Accelerators": [{"Count": 1, "Name": "Inferentia2", "MemoryInfo": {"SizeInMiB": 32768}}],
            "TotalInferenceMemoryInMiB": 16384,
        },
    }
    found = read(entry)
    assert (found.accelerator_kind, found.accelerator_name) == ("neuron", "inferentia2")
    assert found.doubts == ("1 x 32768 MiB of accelerator memory is not the total of 16384 MiB",)


def test_what_ec2_reports_stands_and_what_it_does_not_is_the_packages() -> None:
    found = merged(GPU)
    assert found.contradictions == ()
    assert found.values["accelerator_memory_mib_total"] == 45776
    assert found.values["bf16_tflops_each"] == 362
    assert found.provenance["vcpu"].source == EC2
    assert found.provenance["vcpu"].why == "reported by EC2, as in the package"
    assert found.provenance["bf16_tflops_each"].source == PACKAGE
    assert (
        found.provenance["bf16_tflops_each"].why
        == "EC2 does not report it; nvidia+karpenter, high confidence"
    )
    assert found.provenance["neuron_cores"].source == NOBODY


def test_a_wrong_memory_of_trainium2_does_not_stand_and_both_figures_are_named() -> None:
    found = merged(NEURON)
    assert found.values["accelerator_memory_mib_each"] == 98304
    assert found.values["accelerator_memory_mib_total"] == 1536 * 1024
    (one,) = found.contradictions
    assert str(one) == (
        "trn2.48xlarge: accelerator_memory_mib_each is 524288 by EC2 and 98304 in the package; the package stands"
    )
    assert found.provenance["accelerator_memory_mib_each"].source == PACKAGE
    assert (
        "433% off the documented figure of high confidence"
        in found.provenance["accelerator_memory_mib_each"].why
    )


def test_a_little_other_memory_is_ec2s_and_still_told() -> None:
    found = merged(with_memory(GPU, 46068))
    assert found.values["accelerator_memory_mib_each"] == 46068
    (one,) = found.contradictions
    assert (one.live, one.packaged, one.kept) == (46068, 45776, EC2)
    assert str(one).endswith("EC2 stands")


def test_a_large_difference_stands_where_the_package_is_not_sure() -> None:
    entry = with_memory({**GPU, "InstanceType": "g5.xlarge"}, 45776)
    entry["GpuInfo"]["Gpus"][0]["Name"] = "A10G"
    assert load_instances()["g5.xlarge"].accelerator.confidence == "medium"
    assert merged(entry).values["accelerator_memory_mib_each"] == 45776


@pytest.mark.parametrize(
    ("field", "change", "live", "packaged"),
    [
        ("vcpu", {"VCpuInfo": {"DefaultVCpus": 8}}, 8, 4),
        ("memory_mib", {"MemoryInfo": {"SizeInMiB": 65536}}, 65536, 32768),
        ("local_nvme_gb", {"InstanceStorageInfo": {}}, 0, 250),
        (
            "efa_interfaces",
            {"NetworkInfo": {**GPU["NetworkInfo"], "EfaInfo": {"MaximumEfaInterfaces": 2}}},
            2,
            0,
        ),
        ("network_gbps", {"NetworkInfo": {"NetworkPerformance": "5 Gigabit"}}, 5.0, 2.5),
    ],
)
def test_every_other_difference_is_ec2s_and_told(field: str, change: Entry, live: Any, packaged: Any) -> None:
    found = merged({**GPU, **change})
    assert found.values[field] == live
    assert [(one.field, one.live, one.packaged) for one in found.contradictions] == [(field, live, packaged)]


def test_what_ec2_leaves_out_is_the_packages() -> None:
    found = merged({"InstanceType": "g6e.xlarge"})
    assert found.values["vcpu"] == 4
    assert found.provenance["vcpu"].why == "EC2 does not report it; karpenter"
    assert found.values["accelerator_count"] == 1


def test_a_type_that_only_ec2_knows_takes_its_accelerator_from_the_package() -> None:
    small = copy.deepcopy(NEURON)
    small["InstanceType"] = "trn2.3xlarge"
    small["NeuronInfo"]["NeuronDevices"][0]["Count"] = 1
    small["NeuronInfo"]["TotalNeuronDeviceMemoryInMiB"] = 524288
    found = merged(small)
    assert found.values["bf16_tflops_each"] == 667
    assert found.values["accelerator_memory_mib_total"] == 98304
    assert found.values["neuron_cores"] == 8
    assert len(found.contradictions) == 1


@pytest.mark.parametrize(("each", "bandwidth"), [(40960, 1555), (81920, 2039), (60000, None)])
def test_boards_of_one_name_are_told_apart_by_memory(each: int, bandwidth: float | None) -> None:
    entry = with_memory({**GPU, "InstanceType": "p4z.24xlarge"}, each)
    entry["GpuInfo"]["Gpus"][0]["Name"] = "A100"
    assert merged(entry).values["memory_bandwidth_gb_s_each"] == bandwidth


def test_a_share_of_a_device_has_no_rates_of_a_whole_one() -> None:
    found = merged(SHARE)
    assert (found.values["accelerator_count"], found.values["accelerator_memory_mib_each"]) == (1, 2861)
    assert found.values["bf16_tflops_each"] is None
    assert "not in the package" in found.provenance["bf16_tflops_each"].why


def test_the_package_alone_says_that_nobody_asked() -> None:
    for name, one in packaged_types().items():
        assert one.contradictions == ()
        assert not one.live
        assert one.provenance["vcpu"].why == "EC2 was not asked; karpenter", name


ODD: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**18) | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([GPU, NEURON, SHARE]),
    st.lists(st.tuples(st.integers(0, 60), ODD), min_size=1, max_size=4),
)
def test_any_value_in_any_place_gives_figures_that_can_be_or_none(
    base: Entry, changes: list[tuple[int, Any]]
) -> None:
    entry = copy.deepcopy(base)
    for where, value in changes:
        places = list(paths(entry))
        parent, key = places[where % len(places)]
        parent[key] = value
    found = read_entry(entry)
    if found is None:
        return
    one = merge(found, load_instances().get(found.instance_type), accelerators())
    for name, value in one.values.items():
        assert value is None or isinstance(value, str) or value >= 0, name
    each, count = one.values["accelerator_memory_mib_each"], one.values["accelerator_count"]
    assert one.values["accelerator_memory_mib_total"] == (each * count if each and count else None)
    for contradiction in one.contradictions:
        assert str(contradiction.live) in str(contradiction)
        assert str(contradiction.packaged) in str(contradiction)


def paths(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from paths(inner)
