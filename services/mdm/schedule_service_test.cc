// Snapshot schedules over real gRPC, under a clock that is moved by hand.
#include <catch2/catch.hpp>
#include <thread>

#include "absl/synchronization/notification.h"
#include "services/mdm/schedule_rules.h"
#include "services/mdm/snapshot_fixture.h"
#include "tessera/v1/schedule.grpc.pb.h"

namespace tessera::mdm {
namespace {

using grpc::StatusCode;
using Schedules = v1::SnapshotScheduleService::Stub;

constexpr uint64_t kMinute = 60'000;

struct ScheduleFixture : SnapshotFixture {
  template <typename Method, typename Request, typename Response>
  grpc::Status AskSchedules(Method method, const Request& request, Response* response) {
    grpc::ClientContext context;
    Prepare(&context);
    return (*Stub<v1::SnapshotScheduleService>().*method)(&context, request, response);
  }
  // Every minute, of these volumes.
  static v1::SnapshotSchedule Minutely(const std::vector<v1::Volume>& volumes,
                                       uint32_t keep_last = 0) {
    v1::SnapshotSchedule settings;
    settings.set_name("s");
    for (const v1::Volume& volume : volumes) settings.add_volume_ids(volume.volume_id());
    settings.set_interval_seconds(60);
    settings.mutable_retention()->set_keep_last(keep_last);
    return settings;
  }
  grpc::Status TryMake(const v1::SnapshotSchedule& settings, v1::SnapshotSchedule* made = nullptr,
                       const std::string& request_id = "") {
    v1::CreateSnapshotScheduleRequest request;
    *request.mutable_schedule() = settings;
    request.set_request_id(request_id);
    v1::CreateSnapshotScheduleResponse response;
    const grpc::Status status =
        AskSchedules(&Schedules::CreateSnapshotSchedule, request, &response);
    if (made != nullptr) *made = response.schedule();
    return status;
  }
  v1::SnapshotSchedule MakeSchedule(const v1::SnapshotSchedule& settings) {
    v1::SnapshotSchedule made;
    const grpc::Status status = TryMake(settings, &made);
    INFO(status.error_message());
    REQUIRE(status.ok());
    return made;
  }
  v1::SnapshotSchedule Get(const std::string& name = "s") {
    v1::GetSnapshotScheduleRequest request;
    request.set_name(name);
    v1::GetSnapshotScheduleResponse response;
    REQUIRE(AskSchedules(&Schedules::GetSnapshotSchedule, request, &response).ok());
    return response.schedule();
  }
  grpc::Status Set(const v1::SnapshotSchedule& wanted, const std::vector<std::string>& fields,
                   v1::SnapshotSchedule* now = nullptr) {
    v1::UpdateSnapshotScheduleRequest request;
    request.set_name("s");
    *request.mutable_schedule() = wanted;
    for (const std::string& field : fields) request.mutable_update_mask()->add_paths(field);
    v1::UpdateSnapshotScheduleResponse response;
    const grpc::Status status =
        AskSchedules(&Schedules::UpdateSnapshotSchedule, request, &response);
    if (now != nullptr) *now = response.schedule();
    return status;
  }
  grpc::Status RunByHand(v1::RunSnapshotScheduleResponse* response = nullptr) {
    v1::RunSnapshotScheduleRequest request;
    request.set_name("s");
    v1::RunSnapshotScheduleResponse ignored;
    return AskSchedules(&Schedules::RunSnapshotSchedule, request,
                        response == nullptr ? &ignored : response);
  }
  // To a time that all schedules here run at.
  void ToNextMinute() { clock.AdvanceMillis(kMinute - clock.WallMillis() % kMinute); }
  // The clock stands at a time of the schedule: its run is done.
  void AwaitRun() {
    const uint64_t time = clock.WallMillis();
    REQUIRE(Await([&] { return Get().last_run_ms() >= time; }));
  }
  std::vector<std::string> SnapshotsOf(const v1::Volume& volume) {
    v1::ListVolumesRequest request;
    request.set_kind(v1::VOLUME_KIND_SNAPSHOT);
    request.set_parent_id(volume.volume_id());
    request.set_page_size(1000);
    return Names(request);
  }
  std::string NameNow(const v1::Volume& volume) {
    return SnapshotName(volume.name(), volume.volume_id(), "s", clock.WallMillis());
  }
  v1::Volume FindNamed(const std::string& name) {
    v1::GetVolumeRequest request;
    request.set_name(name);
    v1::GetVolumeResponse response;
    REQUIRE(Ask(&Volumes::GetVolume, request, &response).ok());
    return response.volume();
  }
};

TEST_CASE_METHOD(ScheduleFixture, "a schedule makes snapshots at its times, and keeps the newest",
                 "[schedule]") {
  const v1::Volume v = MakeVolume("v");
  const v1::SnapshotSchedule made = MakeSchedule(Minutely({v}, 2));
  CHECK(made.schedule_id() == 1);
  CHECK(made.created_ms() == clock.WallMillis());
  CHECK(made.last_run_ms() == 0);
  CHECK(made.next_run_ms() == NextRunTime(made, clock.WallMillis()));
  std::vector<std::string> expected;
  for (int i = 0; i < 4; ++i) {
    ToNextMinute();
    expected.push_back(NameNow(v));
    AwaitRun();
    if (expected.size() > 2) expected.erase(expected.begin());
    CHECK(SnapshotsOf(v) == expected);
  }
  const v1::SnapshotSchedule now = Get();
  CHECK(now.last_run_ms() == clock.WallMillis());
  CHECK(now.last_error().empty());
  CHECK(now.next_run_ms() == clock.WallMillis() + kMinute);
  const v1::Volume snapshot = FindNamed(expected.back());
  CHECK(snapshot.labels().at(kScheduleLabel) == "1");
  CHECK(snapshot.locked_until_ms() == 0);
  CHECK(Events("snapshot_schedule_failed").empty());
  CHECK(Events("snapshot_created").size() == 4);
  CHECK(Events("snapshot_deleted").size() == 2);
}

TEST_CASE_METHOD(ScheduleFixture, "a time is run at once, whatever the clock does", "[schedule]") {
  const v1::Volume v = MakeVolume("v");
  (void)MakeSchedule(Minutely({v}));
  ToNextMinute();
  AwaitRun();
  // Within the minute nothing is made, whoever looks.
  clock.AdvanceMillis(kMinute - 1);
  CHECK(SnapshotsOf(v).size() == 1);
  StopMdm();
  StartMdm();
  for (FakeSds* sds : {&a, &b}) REQUIRE(Register(sds).ok());
  for (FakeSdc* sdc : {&client, &other}) REQUIRE(Register(sdc).ok());
  clock.AdvanceMillis(1);
  AwaitRun();
  CHECK(SnapshotsOf(v).size() == 2);
  // An hour was missed: made up for once, with the time that it really has.
  clock.AdvanceMillis(60 * kMinute + 61'234);
  REQUIRE(Await([&] { return SnapshotsOf(v).size() == 3; }));
  CHECK(SnapshotsOf(v).back() ==
        SnapshotName("v", v.volume_id(), "s", clock.WallMillis() / kMinute * kMinute));
  CHECK(Get().next_run_ms() == (clock.WallMillis() / kMinute + 1) * kMinute);
}

TEST_CASE_METHOD(ScheduleFixture, "what was missed for long is named by the real time",
                 "[schedule]") {
  const v1::Volume v = MakeVolume("v");
  v1::SnapshotSchedule hourly = Minutely({v});
  hourly.set_interval_seconds(3'600);
  (void)MakeSchedule(hourly);
  StopMdm();
  clock.AdvanceMillis(3'600'000 - clock.WallMillis() % 3'600'000 + 20 * kMinute);
  const std::string name = NameNow(v);
  StartMdm();
  for (FakeSds* sds : {&a, &b}) REQUIRE(Register(sds).ok());
  REQUIRE(Await([&] { return !SnapshotsOf(v).empty(); }));
  CHECK(SnapshotsOf(v) == std::vector<std::string>{name});
}

TEST_CASE_METHOD(ScheduleFixture, "what is not the schedule's, or locked, or mapped, stays",
                 "[schedule]") {
  const v1::Volume v = MakeVolume("v");
  (void)SnapOne(v, "by-hand");
  v1::SnapshotSchedule settings = Minutely({v}, 1);
  (void)MakeSchedule(settings);
  std::vector<std::string> names;
  for (int i = 0; i < 3; ++i) {
    ToNextMinute();
    names.push_back(NameNow(v));
    AwaitRun();
    const v1::Volume made = FindNamed(names.back());
    if (i == 0) REQUIRE(Map(made, other, v1::MAPPING_MODE_READ_ONLY).ok());
    if (i == 1) REQUIRE(Lock(made, clock.WallMillis() + 2 * kMinute + 1).ok());
    if (i == 2) {
      v1::VolumeUpdate bare;
      REQUIRE(Update(made, bare, "labels").ok());
    }
  }
  ToNextMinute();
  AwaitRun();
  // By hand; mapped; locked; without the label; the newest.
  CHECK(SnapshotsOf(v).size() == 5);
  const v1::Volume mapped = FindNamed(names[0]);
  REQUIRE(Unmap(mapped).ok());
  ToNextMinute();  // the lock is over
  AwaitRun();
  const std::vector<std::string> left = SnapshotsOf(v);
  CHECK(left.size() == 3);
  CHECK(left[0] == "by-hand");
  CHECK(left[1] == names[2]);
  CHECK(left[2] == NameNow(v));
}

TEST_CASE_METHOD(ScheduleFixture, "nobody gives the schedule's label to another snapshot",
                 "[schedule]") {
  const v1::Volume v = MakeVolume("v");
  v1::CreateSnapshotsRequest request = RequestOf({{v, "mine"}});
  (*request.mutable_labels())[kScheduleLabel] = "1";
  CHECK(Snap(request).error_code() == StatusCode::INVALID_ARGUMENT);
  const v1::Volume mine = SnapOne(v, "mine");
  v1::VolumeUpdate wanted;
  (*wanted.mutable_labels())[kScheduleLabel] = "1";
  CHECK(Update(mine, wanted, "labels").error_code() == StatusCode::INVALID_ARGUMENT);
  (void)MakeSchedule(Minutely({v}));
  REQUIRE(RunByHand().ok());
  const v1::Volume made = FindNamed(SnapshotsOf(v).back());
  (*wanted.mutable_labels())["more"] = "1";
  CHECK(Update(made, wanted, "labels").ok());
  (*wanted.mutable_labels())[kScheduleLabel] = "2";
  CHECK(Update(made, wanted, "labels").error_code() == StatusCode::INVALID_ARGUMENT);
}

TEST_CASE_METHOD(ScheduleFixture,
                 "volumes are found by label at the time; those gone are passed over",
                 "[schedule]") {
  const v1::Volume by_id = MakeVolume("by-id");
  const v1::Volume gone = MakeVolume("gone");
  const v1::Volume trashed = MakeVolume("trashed");
  const v1::Volume labelled = MakeVolume("labelled");
  v1::SnapshotSchedule settings = Minutely({by_id, gone, trashed});
  settings.set_volume_label("tier=gold");
  (void)MakeSchedule(settings);
  REQUIRE(Delete(gone).ok());
  REQUIRE(Delete(trashed, 10 * kMinute).ok());
  v1::VolumeUpdate gold;
  (*gold.mutable_labels())["tier"] = "gold";
  REQUIRE(Update(labelled, gold, "labels").ok());
  REQUIRE(Update(by_id, gold, "labels").ok());  // named twice, made once
  ToNextMinute();
  AwaitRun();
  CHECK(Get().last_error().empty());
  CHECK(SnapshotsOf(by_id).size() == 1);
  CHECK(SnapshotsOf(labelled).size() == 1);
  CHECK(SnapshotsOf(trashed).empty());
}

TEST_CASE_METHOD(ScheduleFixture, "a consistent one has all volumes hold before the first cuts",
                 "[schedule]") {
  const v1::Volume v = MakeVolume("v");
  const v1::Volume w = MakeVolume("w");
  (void)MakeWriter(v, &client);
  (void)MakeWriter(w, &other);
  v1::SnapshotSchedule settings = Minutely({v, w});
  settings.set_consistent(true);
  settings.set_deadline_ms(900);
  settings.set_lock_seconds(3'600);
  (void)MakeSchedule(settings);
  ToNextMinute();
  AwaitRun();
  CHECK(Get().last_error().empty());
  REQUIRE(client.snapshot_calls().size() == 2);
  CHECK(client.snapshot_calls()[0].what == Call::kHold);
  CHECK(client.snapshot_calls()[0].deadline_ms <= 900);
  CHECK(client.snapshot_calls()[1].what == Call::kCut);
  CHECK(other.snapshot_calls().size() == 2);
  CHECK(SnapshotsOf(v).size() == 1);
  CHECK(SnapshotsOf(w).size() == 1);
  CHECK(FindNamed(NameNow(v)).locked_until_ms() >= clock.WallMillis() + 3'600'000);
  // All or none.
  other.OnSnapshotCall([](const Call&) { return grpc::Status(StatusCode::ABORTED, "no"); });
  ToNextMinute();
  AwaitRun();
  CHECK(Get().last_error() != "");
  CHECK(SnapshotsOf(v).size() == 1);
}

TEST_CASE_METHOD(ScheduleFixture, "one volume that fails stops no other, and is told of once",
                 "[schedule]") {
  const v1::Volume v = MakeVolume("v");
  const v1::Volume w = MakeVolume("w");
  (void)MakeWriter(v, &client);
  (void)MakeSchedule(Minutely({v, w}));
  client.OnSnapshotCall([](const Call&) { return grpc::Status(StatusCode::ABORTED, "busy"); });
  for (size_t i = 1; i <= 3; ++i) {
    ToNextMinute();
    AwaitRun();
    CHECK(SnapshotsOf(v).empty());
    CHECK(SnapshotsOf(w).size() == i);
    CHECK(Get().last_error().find("volume v (1): ") == 0);
    CHECK(Events("snapshot_schedule_failed").size() == 1);
  }
  client.OnSnapshotCall(nullptr);
  ToNextMinute();
  AwaitRun();
  CHECK(SnapshotsOf(v).size() == 1);
  CHECK(Get().last_error().empty());
  CHECK(Events("snapshot_schedule_failed").size() == 1);
  CHECK(Events("snapshot_schedule_works").size() == 1);
}

TEST_CASE_METHOD(ScheduleFixture,
                 "an MDM that stops in a run makes the rest of it, and nothing twice",
                 "[schedule]") {
  const v1::Volume v = MakeVolume("v");
  const v1::Volume w = MakeVolume("w");
  (void)MakeWriter(w, &client);
  (void)MakeSchedule(Minutely({v, w}));
  // The first is made; the second one's client is asked, and the MDM stops before it has answered.
  absl::Notification asked;
  absl::Notification go_on;
  client.OnSnapshotCall([&](const Call&) {
    if (!asked.HasBeenNotified()) asked.Notify();
    go_on.WaitForNotification();
    return grpc::Status(StatusCode::ABORTED, "too late");
  });
  ToNextMinute();
  const uint64_t time = clock.WallMillis();
  mdm->Tick();
  REQUIRE(asked.WaitForNotificationWithTimeout(absl::Seconds(10)));
  CHECK(SnapshotsOf(v).size() == 1);
  std::thread stop([&] { StopMdm(); });
  go_on.Notify();
  stop.join();
  client.OnSnapshotCall(nullptr);
  clock.AdvanceMillis(20'000);
  StartMdm();
  for (FakeSds* sds : {&a, &b}) REQUIRE(Register(sds).ok());
  REQUIRE(Register(&client).ok());
  REQUIRE(Await([&] { return Get().last_run_ms() == time; }));
  CHECK(Get().last_error().empty());
  CHECK(SnapshotsOf(v) == std::vector<std::string>{SnapshotName("v", 1, "s", time)});
  CHECK(SnapshotsOf(w) == std::vector<std::string>{SnapshotName("w", 2, "s", time)});
}

TEST_CASE_METHOD(ScheduleFixture, "by hand, besides its times", "[schedule]") {
  const v1::Volume v = MakeVolume("v");
  v1::SnapshotSchedule settings = Minutely({v}, 2);
  settings.set_paused(true);
  CHECK(MakeSchedule(settings).next_run_ms() == 0);
  std::vector<uint64_t> ids;
  for (int i = 0; i < 3; ++i) {  // within one second
    v1::RunSnapshotScheduleResponse response;
    REQUIRE(RunByHand(&response).ok());
    REQUIRE(response.snapshots_size() == 1);
    ids.push_back(response.snapshots(0).volume_id());
    CHECK(response.deleted_snapshot_ids_size() == (i == 2 ? 1 : 0));
    if (i == 2) CHECK(response.deleted_snapshot_ids(0) == ids[0]);
  }
  CHECK(SnapshotsOf(v).size() == 2);
  // Paused, it does nothing by itself; and nothing is made up for when it goes on.
  clock.AdvanceMillis(10 * kMinute);
  settings.set_paused(false);
  v1::SnapshotSchedule now;
  REQUIRE(Set(settings, {"paused"}, &now).ok());
  CHECK(now.next_run_ms() == (clock.WallMillis() / kMinute + 1) * kMinute);
  ToNextMinute();
  AwaitRun();
  CHECK(SnapshotsOf(v).size() == 2);
  CHECK(Events("snapshot_created").size() == 4);
  // One without volumes.
  settings.clear_volume_ids();
  REQUIRE(Set(settings, {"volume_ids"}).ok());
  CHECK(Reason(RunByHand()) == "NO_VOLUMES");
  ToNextMinute();
  AwaitRun();
  CHECK(Get().last_error().empty());
}

TEST_CASE_METHOD(ScheduleFixture, "schedules are made, listed, changed and deleted", "[schedule]") {
  const v1::Volume v = MakeVolume("v");
  const v1::Volume snapshot = SnapOne(v, "snap");
  v1::SnapshotSchedule first;
  REQUIRE(TryMake(Minutely({v}), &first, "request-1").ok());
  v1::SnapshotSchedule again;
  REQUIRE(TryMake(Minutely({v}), &again, "request-1").ok());
  CHECK(again.schedule_id() == first.schedule_id());
  CHECK(Reason(TryMake(Minutely({v}))) == "NAME_TAKEN");
  v1::SnapshotSchedule settings = Minutely({v});
  settings.set_name("t");
  settings.add_volume_ids(4711);
  CHECK(Reason(TryMake(settings)) == "VOLUME_NOT_FOUND");
  settings.set_volume_ids(1, snapshot.volume_id());
  CHECK(Reason(TryMake(settings)) == "SNAPSHOT_READ_ONLY");
  settings.set_volume_ids(1, v.volume_id());
  CHECK(TryMake(settings).error_code() == StatusCode::INVALID_ARGUMENT);
  settings.clear_volume_ids();
  REQUIRE(TryMake(settings).ok());

  v1::ListSnapshotSchedulesRequest list;
  list.set_page_size(1);
  v1::ListSnapshotSchedulesResponse page;
  REQUIRE(AskSchedules(&Schedules::ListSnapshotSchedules, list, &page).ok());
  REQUIRE(page.schedules_size() == 1);
  CHECK(page.schedules(0).name() == "s");
  list.set_page_token(page.next_page_token());
  REQUIRE(AskSchedules(&Schedules::ListSnapshotSchedules, list, &page).ok());
  REQUIRE(page.schedules_size() == 1);
  CHECK(page.schedules(0).name() == "t");

  v1::SnapshotSchedule wanted;
  wanted.set_interval_seconds(120);
  wanted.set_name("t");
  CHECK(Set(wanted, {}).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(Set(wanted, {"last_error"}).error_code() == StatusCode::INVALID_ARGUMENT);
  CHECK(Reason(Set(wanted, {"name", "interval_seconds"})) == "NAME_TAKEN");
  CHECK(Get().interval_seconds() == 60);
  wanted.mutable_retention()->set_keep_daily(7);
  v1::SnapshotSchedule now;
  REQUIRE(Set(wanted, {"interval_seconds", "retention", "volume_ids"}, &now).ok());
  CHECK(now.interval_seconds() == 120);
  CHECK(now.retention().keep_daily() == 7);
  CHECK(now.volume_ids_size() == 0);
  CHECK(now.next_run_ms() == NextRunTime(now, clock.WallMillis()));

  v1::DeleteSnapshotScheduleRequest remove;
  remove.set_name("s");
  v1::DeleteSnapshotScheduleResponse removed;
  CHECK(AskSchedules(&Schedules::DeleteSnapshotSchedule, remove, &removed).ok());
  CHECK(AskSchedules(&Schedules::DeleteSnapshotSchedule, remove, &removed).ok());
  CHECK(Reason(RunByHand()) == "SCHEDULE_NOT_FOUND");
  remove.clear_name();
  CHECK(AskSchedules(&Schedules::DeleteSnapshotSchedule, remove, &removed).error_code() ==
        StatusCode::INVALID_ARGUMENT);
}

TEST_CASE_METHOD(ScheduleFixture, "a deleted schedule's snapshots stay", "[schedule]") {
  const v1::Volume v = MakeVolume("v");
  (void)MakeSchedule(Minutely({v}, 1));
  REQUIRE(RunByHand().ok());
  v1::DeleteSnapshotScheduleRequest remove;
  remove.set_name("s");
  v1::DeleteSnapshotScheduleResponse removed;
  REQUIRE(AskSchedules(&Schedules::DeleteSnapshotSchedule, remove, &removed).ok());
  // Another one of the same name has another id, and its own snapshots.
  CHECK(MakeSchedule(Minutely({v}, 1)).schedule_id() == 2);
  ToNextMinute();
  AwaitRun();
  ToNextMinute();
  AwaitRun();
  CHECK(SnapshotsOf(v).size() == 2);
}

}  // namespace
}  // namespace tessera::mdm
