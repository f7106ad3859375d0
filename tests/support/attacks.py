"""What was attacked and fell once, row by row, and the tests that prove that it holds now.

A row is one kind of attack; `LOW` are the smaller ones. Each names tests as ``path::function`` under tests/, which must
exist (tests/unit/test_attacks_covered.py). `python -m tests.support.attacks` prints the table.
"""

import ast
from collections.abc import Mapping
from pathlib import Path

TESTS = Path(__file__).parents[1]
HIGH = range(1, 10)  # of these, each is also shown on the real binary
ROWS = {
    1: "a death whose evidence the client wrote",
    2: "poison that differs by a byte each time",
    3: "an innocent question quarantined for everybody",
    4: "a model file that writes the configuration",
    5: "files of somebody else that are believed",
    6: "large JSON before anybody asks who it is",
    7: "slow heads and slow bodies that take all places",
    8: "parameters and sizes beyond reason",
    9: "one request that is many sequences",
    10: "web pages of other origins, and rebound names",
    11: "tokens that nobody counted",
    12: "tables that clients fill",
    13: "silent connections under TLS",
    14: "loopback believed behind a proxy",
    15: "escapes that reach a terminal",
    16: "streams that outlive their key",
    17: "a cookie that is enough to be admin",
    18: "other clients pushed out of the access log",
}
# All attackers at once: those of the row are among them (`tests.attack.arsenal`).
ATTACK = "real/test_attack_real.py::test_honest_clients_are_served_while_strangers_attack"
PROOFS: Mapping[int | str, tuple[str, ...]] = {
    1: (
        "unit/proc/test_causes.py::test_of_one_that_has_served_no_word_is_believed",
        "unit/proc/test_history.py::test_however_often_requests_bring_it_down_it_serves_as_configured",
        "integration/test_daemon_causes.py::test_a_request_that_takes_all_memory_is_refused_and_the_model_goes_on",
        "real/test_bans_real.py::test_poison_that_differs_by_a_byte_shuts_out_its_sender_and_nobody_else",
        ATTACK,
    ),
    2: (
        "unit/proxy/test_bans.py::test_the_second_strike_within_ten_minutes_closes_the_door_for_an_hour",
        "unit/proxy/test_grammar_bounds.py::test_at_least_more_than_at_most_is_refused",
        "integration/proxy/test_wire_order.py::test_what_is_refused_counts_against_the_rate",
        "integration/test_daemon_bans.py::test_three_that_differ_by_a_byte_close_the_door_of_their_sender_and_take_nothing_from_the_model",
        "real/test_bans_real.py::test_poison_that_differs_by_a_byte_shuts_out_its_sender_and_nobody_else",
        ATTACK,
    ),
    3: (
        "unit/proxy/test_suspects.py::test_new_poison_does_not_bring_blame_on_an_innocent_question",
        "unit/proxy/test_quarantine.py::test_what_was_not_alone_is_known_for_its_client_only",
        "real/test_bans_real.py::test_poison_that_differs_by_a_byte_shuts_out_its_sender_and_nobody_else",
    ),
    4: (
        "unit/test_config_init_hostile.py::test_whatever_a_model_says_the_file_holds_what_is_meant_or_is_not_written",
        "unit/test_config_init_hostile.py::test_a_file_name_with_line_breaks_adds_no_key",
        "real/test_local_trust_real.py::test_a_model_with_a_hostile_name_is_served_by_the_configuration_made_for_it",
    ),
    5: (
        "unit/test_secure_path.py::test_a_folder_on_the_way_that_everybody_may_write",
        "unit/test_reload.py::test_what_others_could_have_written_is_not_taken_up",
        "unit/test_chat_key.py::test_another_host_of_a_found_configuration_does_not",
        "integration/test_other_users.py::test_a_configuration_that_another_user_left_in_a_shared_folder_is_not_used",
        "real/test_local_trust_real.py::test_a_real_build_that_others_could_have_changed_is_not_run",
    ),
    6: (
        "unit/proxy/test_outline.py::test_a_body_of_elements_is_refused_long_before_its_end",
        "integration/proxy/test_wire_order.py::test_a_body_without_a_key_is_answered_before_it_comes",
        "integration/proxy/test_wire_order.py::test_a_flood_of_elements_delays_nobody",
        ATTACK,
    ),
    7: (
        "unit/proxy/test_places.py::test_incomplete_ones_go_first_and_of_them_those_of_whoever_has_most",
        "unit/proxy/test_pace.py::test_a_byte_now_and_then_is_not_waited_for",
        "integration/proxy/test_wire_many.py::test_places_are_kept_for_keys_and_beyond_them_nobody_waits_for_a_word",
        "integration/proxy/test_wire_slow.py::test_who_does_not_read_holds_no_slot_that_others_wait_for",
        "integration/proxy/test_wire_slow.py::test_who_fills_the_budget_and_sends_no_more_loses_it_to_who_waits",
        ATTACK,
    ),
    8: (
        "unit/proxy/test_request_bounds.py::test_windows_within_the_context",
        "unit/proxy/test_request_bounds.py::test_members_of_any_object_however_deep",
        "unit/proxy/test_schema_bounds.py::test_just_inside_and_just_outside",
        "unit/proc/test_confine.py::test_it_may_take_a_little_more_and_no_more",
        "real/test_request_bounds_real.py::test_poison_is_refused_and_the_child_lives",
        ATTACK,
    ),
    9: (
        "unit/proxy/test_sequences.py::test_as_many_as_llama_server_makes_of_it",
        "unit/proxy/test_gate_leases.py::test_each_answer_takes_a_slot",
        "real/test_request_bounds_real.py::test_as_many_answers_as_slots_are_served",
        ATTACK,
    ),
    10: (
        "unit/proxy/test_origins.py::test_a_page_of_another_origin",
        "unit/proxy/test_server_names.py::test_not_ours",
        "integration/proxy/test_wire_browsers.py::test_a_simple_request_of_another_page_reaches_nobody",
        "real/test_web_pages.py::test_a_page_of_another_site_gets_nothing_done",
        "real/test_web_pages.py::test_a_rebound_page_reads_nothing",
    ),
    11: (
        "unit/ratelimit/test_tokens.py::test_what_is_not_told_may_have_been_as_long_as_there_was_room",
        "unit/ratelimit/test_tokens.py::test_lengths_are_learned_by_client_and_model",
        "real/test_request_bounds_real.py::test_what_an_answer_does_not_tell_is_charged_all_the_same",
    ),
    12: (
        "unit/test_bounded.py::test_it_keeps_so_many_bytes_and_no_more",
        "unit/test_bounded.py::test_all_of_them_together_leave_the_daemon_small",
        ATTACK,
    ),
    13: (
        "integration/proxy/test_wire_tls.py::test_those_who_connect_and_say_nothing_leave_for_those_who_speak",
        "integration/proxy/test_wire_tls.py::test_one_address_does_not_keep_all_places_at_the_door",
    ),
    14: (
        "unit/settings/test_schema.py::test_loopback_is_trusted_for_nothing",
        "unit/settings/test_schema.py::test_names_that_cost_nothing_share_one_bucket",
        "unit/doctor/test_exposure.py::test_each_unsafe_combination_is_one_finding_with_its_remedy",
        "integration/test_metrics.py::test_loopback_is_trusted_for_nothing_by_default",
    ),
    15: (
        "unit/test_printable.py::test_no_control_character_passes",
        "unit/test_output.py::test_every_verb_prints_through_this_one_place",
        "integration/test_terminal_safety.py::test_no_word_of_others_commands_the_terminal",
    ),
    16: (
        "integration/test_daemon_console.py::test_a_stream_ends_with_its_key",
        "integration/test_daemon_console.py::test_a_stream_ends_when_its_key_expires",
        "integration/test_daemon_console.py::test_a_stream_ends_with_its_sessions_key_and_with_signing_out",
    ),
    17: (
        "unit/proxy/test_sessions.py::test_the_cookie_alone_is_nothing_and_neither_is_the_page_alone",
        "integration/test_daemon_console.py::test_the_cookie_alone_which_goes_to_every_port_is_good_for_nothing",
        "real/test_web_pages.py::test_what_another_port_is_sent_of_a_session_is_not_enough",
    ),
    18: (
        "unit/proxy/test_accesslog.py::test_refusals_beyond_some_in_a_second_are_summed_up_and_others_are_told",
        "unit/proxy/test_accesslog.py::test_a_long_path_is_cut_and_shows_it",
        "unit/proxy/test_accesslog.py::test_what_was_served_is_always_told",
    ),
}
LOW: Mapping[int | str, tuple[str, ...]] = {
    "metrics readable by web pages": (
        "unit/proxy/test_cors.py::test_figures_of_all_clients_are_for_no_page",
        "integration/test_metrics.py::test_no_web_page_may_read_it",
    ),
    "headers of a hostile child": (
        "unit/proxy/test_headers.py::test_control_characters_in_a_head_are_no_answer",
        "unit/proxy/test_headers.py::test_what_is_ours_to_say_or_kept_by_browsers_stops_here",
    ),
    "health that tells strangers path and cause": (
        "unit/proxy/test_answers.py::test_health_tells_strangers_no_file_and_no_reason",
    ),
    "assets that cost the loop": ("unit/proxy/test_static.py::test_what_the_browser_has_is_not_sent_again",),
    "a unit that exposes the machine": (
        "unit/test_systemd_units.py::test_little_is_exposed_when_the_service_is_taken_over",
    ),
    "cancel by an id that clients choose": (
        "integration/proxy/test_accounts.py::test_of_several_requests_with_one_id_none_is_ended_unless_it_is_said_which",
    ),
    "numbers that are infinite": (
        "unit/proxy/test_asked.py::test_a_number_beyond_a_double_is_the_callers_mistake",
    ),
    "a Host that is none": ("unit/proxy/test_headers.py::test_a_host_of_another_form_is_refused",),
    "images by tag, Redis without a password": (
        "unit/test_containers.py::test_images_can_be_pinned_to_digests",
        "unit/test_containers.py::test_redis_has_a_password_that_no_list_of_processes_shows",
    ),
    "an environment that is inherited": (
        "unit/proc/test_command.py::test_what_is_not_on_the_list_stays_here",
    ),
    "privileges and core files": (
        "unit/proc/test_spawn.py::test_no_core_a_larger_stack_and_no_new_privileges",
        "unit/proc/test_confine.py::test_the_daemon_leaves_no_core_file_unless_it_is_wanted",
    ),
    "the owner of keys.json": (
        "unit/keys/test_keys_store.py::test_another_users_file_is_not_believed_by_a_daemon_whoever_has_the_folder",
    ),
    "answers that browsers keep or guess at": (
        "unit/control/test_api.py::test_nothing_it_says_is_kept_or_taken_for_something_else",
        "unit/proxy/test_answers.py::test_a_response_is_legal_http",
    ),
    "a health answer without an end": (
        "unit/proc/test_probe.py::test_no_more_is_read_of_an_answer_than_one_can_be",
        "unit/proc/test_probe.py::test_who_dribbles_does_not_hold_us",
    ),
}
# No test yet, with the reason; a row leaves this when it gets one.
NOT_BUILT: Mapping[int | str, str] = {}


def missing(proofs: Mapping[int | str, tuple[str, ...]], folder: Path = TESTS) -> list[str]:
    """Names of tests that are not there."""
    found: dict[str, frozenset[str]] = {}
    for name in (name for names in proofs.values() for name in names):
        path, _, _ = name.partition("::")
        if path not in found:
            found[path] = _functions(folder / path)
    return [
        name
        for names in proofs.values()
        for name in names
        if name.partition("::")[2] not in found[name.partition("::")[0]]
    ]


def _functions(path: Path) -> frozenset[str]:
    if not path.is_file():
        return frozenset()
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def main() -> None:
    for row, title in ROWS.items():
        print(f"{row:>3}  {title}")
        for name in PROOFS.get(row, (f"NOT BUILT: {NOT_BUILT.get(row)}",)):
            print(f"       {name}")
    for title, names in LOW.items():
        print(f"low  {title}")
        for name in names:
            print(f"       {name}")


if __name__ == "__main__":
    main()
